// Command gonfs serves a directory with github.com/willscott/go-nfs: gonfs DIR PORT. The NFS
// benchmark compares our server with it. It is the library's own example of a server, with enough
// space for all handles; it does not use netroot.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/go-git/go-billy/v5/osfs"
	nfs "github.com/willscott/go-nfs"
	"github.com/willscott/go-nfs/helpers"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gonfs:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%d arguments, not a directory and a port", len(args))
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", args[1]))
	if err != nil {
		return err
	}
	handler := helpers.NewCachingHandler(helpers.NewNullAuthHandler(osfs.New(args[0])), 1<<20)
	return nfs.Serve(l, handler)
}
