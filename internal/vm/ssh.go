package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Client is a login on a machine.
type Client struct {
	client *ssh.Client
}

// Limits of a login. Firmware and kernel take a while until anyone listens, and until then qemu accepts the connection
// and says nothing; a machine that does speak may be an emulated one, for which the key exchange is hard work.
const (
	bannerLimit = 5 * time.Second
	loginLimit  = time.Minute
	loginPause  = 500 * time.Millisecond
)

// SSH logs in as root, for which it waits until the machine lets it or has ended, or ctx ends. A machine that answers and
// does not take the key is an error at once.
func (m *Machine) SSH(ctx context.Context, key Key) (*Client, error) {
	if key.signer == nil {
		return nil, errors.New("ssh: cannot log in with a public key alone; give the private one")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	c, err := waitLogin(ctx, "127.0.0.1:"+strconv.Itoa(m.SSHPort), key.signer)
	select {
	case <-m.done:
		return nil, fmt.Errorf("ssh: %w", m.ended())
	default:
	}
	if err != nil {
		return nil, fmt.Errorf("ssh: %w; the end of the machine's console:%s", err, indent(m.Tail()))
	}
	return c, nil
}

// waitLogin tries until a login succeeds.
func waitLogin(ctx context.Context, addr string, signer ssh.Signer) (*Client, error) {
	for {
		c, err := login(ctx, addr, signer)
		switch {
		case err == nil:
			return c, nil
		case refusedKey(err):
			return nil, fmt.Errorf("the machine does not take the key: %w", err)
		}
		pause := time.NewTimer(loginPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, fmt.Errorf("no login until %w (the last try: %w)", context.Cause(ctx), err)
		}
	}
}

// refusedKey tells a refusal from a connection that failed. x/crypto/ssh has no type for it on the client's side.
func refusedKey(err error) bool { return strings.Contains(err.Error(), "unable to authenticate") }

func login(ctx context.Context, addr string, signer ssh.Signer) (*Client, error) {
	conn, err := (&net.Dialer{Timeout: bannerLimit}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(bannerLimit))
	sc, channels, requests, err := ssh.NewClientConn(&patientConn{Conn: conn}, addr, &ssh.ClientConfig{
		User: "root",
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		// The machine made its host key a moment ago, so nobody can know it. The port is a forward that our own qemu
		// holds on this host's loopback.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &Client{ssh.NewClient(sc, channels, requests)}, nil
}

// patientConn extends the deadline of the login when the other side has said its first word.
type patientConn struct {
	net.Conn
	once sync.Once
}

func (c *patientConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.once.Do(func() { c.SetDeadline(time.Now().Add(loginLimit)) })
	}
	return n, err
}

// Run runs a command of the machine's shell and returns its exit status; 128 and the number for one that a signal ended,
// as a shell has it. The error is for a command that could not be run to its end.
func (c *Client) Run(ctx context.Context, command string, stdout, stderr io.Writer) (status int, err error) {
	session, err := c.client.NewSession()
	if err != nil {
		return 0, fmt.Errorf("ssh: %w", err)
	}
	defer session.Close()
	defer context.AfterFunc(ctx, func() { session.Close() })()
	session.Stdout, session.Stderr = stdout, stderr
	err = session.Run(command)
	switch exit := (*ssh.ExitError)(nil); {
	case err == nil:
		return 0, nil
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case errors.As(err, &exit):
		return exit.ExitStatus(), nil
	default:
		return 0, fmt.Errorf("ssh: the connection ended while %q ran: %w", command, err)
	}
}

// Close logs out.
func (c *Client) Close() error { return c.client.Close() }

// powerOffLimit is how long a machine may take to shut down; one that is emulated takes a while.
const powerOffLimit = 90 * time.Second

// PowerOff shuts the machine down and waits until it is gone: by a command over ssh where there is a login, and else by
// its power button. One that does not go is switched off after 90 s, which is an error.
func (m *Machine) PowerOff(ctx context.Context, c *Client) error {
	ctx, cancel := context.WithTimeout(ctx, powerOffLimit)
	defer cancel()
	if c != nil {
		// The connection may end before the answer comes; that the machine goes is the answer.
		c.Run(ctx, "systemctl poweroff || poweroff", io.Discard, io.Discard)
	} else if err := m.qmp.PowerDown(ctx); err != nil && !errors.Is(err, ErrQMPClosed) {
		return err
	}
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
	}
	tail := m.Tail()
	quit, cancelQuit := context.WithTimeout(context.WithoutCancel(ctx), killDelay)
	defer cancelQuit()
	if m.qmp.Quit(quit) != nil {
		m.Kill()
	}
	<-m.done
	return fmt.Errorf("the machine did not shut down in %s and was switched off; the end of its console:%s", powerOffLimit, indent(tail))
}
