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

// These are the limits of a login. Firmware and kernel take some time until sshd listens, and until
// then qemu accepts connections and sends nothing. An emulated machine that does answer takes long
// for the key exchange.
const (
	bannerLimit = 5 * time.Second
	loginLimit  = time.Minute
	loginPause  = 500 * time.Millisecond
)

// SSH logs in as root. It waits until a login succeeds, the machine ends, or ctx ends. If the
// machine refuses the key, SSH returns an error at once.
func (m *Machine) SSH(ctx context.Context, key Key) (*Client, error) {
	if key.signer == nil {
		return nil, errors.New("ssh: a public key is not enough to log in: use the private key")
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
			return nil, fmt.Errorf("the machine does not accept the key: %w", err)
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

// refusedKey reports whether a login was refused, as opposed to a failed connection. x/crypto/ssh
// has no type for this error of a client.
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
		// The machine made its host key a moment ago, so that nobody can know it. The port
		// belongs to our own qemu, on this host's loopback.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return &Client{ssh.NewClient(sc, channels, requests)}, nil
}

// patientConn extends the deadline of the login when the other side sends its first bytes.
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

// Run runs a command in the machine's shell and returns its exit status; as in a shell, 128 plus
// the number of the signal that ended the command. The error means that the command could not be
// run to its end.
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

// powerOffLimit is the time that a machine may take to shut down. An emulated machine takes long.
const powerOffLimit = 90 * time.Second

// PowerOff shuts the machine down and waits until it has ended. It runs a command over ssh if c is
// not nil, and otherwise presses the power button. A machine that runs for another 90 s is switched
// off, which is an error.
func (m *Machine) PowerOff(ctx context.Context, c *Client) error {
	ctx, cancel := context.WithTimeout(ctx, powerOffLimit)
	defer cancel()
	if c != nil {
		// The connection may end before the answer arrives. Success means that the machine
		// ends.
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
