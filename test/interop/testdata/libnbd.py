# Usage: libnbd.py URI FILE: checks the server at URI, which serves FILE read-only, with libnbd.
import errno
import sys

import nbd

uri, data = sys.argv[1], open(sys.argv[2], "rb").read()
size = len(data)


def connect(structured):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.set_strict_mode(0)  # or libnbd refuses what the server is to refuse
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    assert h.get_structured_replies_negotiated() == structured
    return h


def fails(want, call, *args, **kw):
    try:
        call(*args, **kw)
    except nbd.Error as e:
        assert e.errnum == want, "%s, want %s" % (e, errno.errorcode[want])
        return
    raise AssertionError("no error, want " + errno.errorcode[want])


for structured in (False, True):
    h = connect(structured)
    assert h.get_size() == size and h.is_read_only()
    assert h.pread(1, size - 1) == data[-1:]
    assert h.pread(4097, 12345) == data[12345 : 12345 + 4097]
    fails(errno.EINVAL, h.pread, 2, size - 1)
    fails(errno.EINVAL, h.pread, 1, size + 1)
    fails(errno.EPERM, h.pwrite, b"x" * 100000, 0)
    fails(errno.EPERM, h.trim, 4096, 0)
    fails(errno.EPERM, h.zero, 4096, 0)
    h.flush()
    h.cache(size, 0)
    fails(errno.EINVAL, h.cache, size, 1)
    fails(errno.EINVAL, h.pread, 512, 0, flags=1 << 5)
    if not structured:
        fails(errno.EINVAL, h.pread, 512, 0, flags=nbd.CMD_FLAG_DF)

    # Many requests under way, answered in any order.
    want = [(i * 7919 * 512 % (size - 262144), 512 << (i % 10)) for i in range(200)]
    bufs = [nbd.Buffer(n) for _, n in want]
    cookies = {h.aio_pread(b, off): i for i, (b, (off, _)) in enumerate(zip(bufs, want))}
    while cookies:
        h.poll(-1)
        for c in [c for c in cookies if h.aio_command_completed(c)]:
            off, n = want[cookies.pop(c)]
            i = want.index((off, n))
            assert bufs[i].to_bytearray() == data[off : off + n]
    h.shutdown()

h = connect(True)
assert h.pread(65536, 0, flags=nbd.CMD_FLAG_DF) == data[:65536]
chunks = []
h.pread_structured(1 << 20, 4096, lambda buf, off, status, err: chunks.append((off, len(buf), status)))
assert chunks == [(4096, 1 << 20, nbd.READ_DATA)], chunks
extents = []
h.block_status(size, 0, lambda context, off, e, err: extents.append((context, off, sum(e[::2]))))
assert extents == [("base:allocation", 0, size)], extents
h.block_status(4096, 4096, lambda context, off, e, err: extents.append(e), flags=nbd.CMD_FLAG_REQ_ONE)
assert extents[1] == [4096, 0], extents
fails(errno.EINVAL, h.block_status, 2, size - 1, lambda *a: 0)
h.shutdown()

# A client of the old kind: no fixed newstyle, no NO_ZEROES.
h = nbd.NBD()
h.set_handshake_flags(0)
h.connect_uri(uri)
assert h.get_protocol() == "newstyle"
assert h.pread(512, 0) == data[:512]
h.shutdown()
