export NODE_KIND=diskless
