package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/bothy-edge/bothy/agent"
)

// loadConfig reads the configuration that the flags name.
func (o *options) loadConfig() (agent.Config, error) {
	path, explicit := o.config, o.config != ""
	if env := os.Getenv("BOTHY_CONFIG"); !explicit && env != "" {
		path, explicit = env, true
	}
	if path == "" {
		path = agent.DefaultConfigPath
	}
	c, err := agent.LoadConfig(path, explicit)
	if errors.Is(err, fs.ErrPermission) {
		return c, withHint{err, "it holds no secrets: chmod 644 " + path}
	}
	return c, err
}

// adminSocket is where the operator's API listens.
func (o *options) adminSocket() (string, error) {
	if o.admin != "" {
		return o.admin, nil
	}
	c, err := o.loadConfig()
	return c.Admin.Socket, err
}

// unixClient speaks HTTP over one unix socket.
func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

// admin calls the operator's API and decodes the answer into out, when out is not nil.
func (o *options) adminCall(ctx context.Context, method, path string, in, out any) error {
	socket, err := o.adminSocket()
	if err != nil {
		return err
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("internal error: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bothy"+path, body)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	resp, err := unixClient(socket).Do(req)
	if err != nil {
		return explainDial("--admin-socket", socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return readProblem(resp)
	}
	if w, ok := out.(io.Writer); ok {
		_, err = io.Copy(w, resp.Body)
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("cannot read the agent's answer: %w", err)
	}
	return nil
}

// patience is how long commands that wait anyway give an agent that is just starting.
const patience = 5 * time.Second

// awaitAgent returns once the admin socket accepts, so that `bothy run &` may be
// followed by an order at once.
func (o *options) awaitAgent(ctx context.Context) error {
	socket, err := o.adminSocket()
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; {
		conn, err := net.DialTimeout("unix", socket, patience)
		if err == nil {
			return conn.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(end) {
			return explainDial("--admin-socket", socket, err)
		}
		select {
		case <-ctx.Done():
			return explainDial("--admin-socket", socket, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readProblem turns the API's error body into an error with its hint.
func readProblem(resp *http.Response) error {
	var p agent.Problem
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what was read is shown
	if json.Unmarshal(raw, &p) != nil || p.Error.Message == "" {
		return fmt.Errorf("the agent answered %s: %s", resp.Status, bytes.TrimSpace(raw))
	}
	err := errors.New(p.Error.Message)
	if p.Error.Hint != "" {
		return withHint{err, p.Error.Hint}
	}
	return err
}

// explainDial says why a socket does not answer and what to type; flag is the one that names the socket.
func explainDial(flag, socket string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return exitError(130)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return withHint{fmt.Errorf("no agent answers at %s", socket), "start it with `bothy run` or `systemctl start bothy`, or name its socket with " + flag + " or --config"}
	case errors.Is(err, fs.ErrPermission):
		return withHint{fmt.Errorf("not allowed to connect to %s", socket), "run as root, or join the socket's group: usermod -aG $(stat -c %G " + socket + ") $USER"}
	}
	return fmt.Errorf("cannot reach the agent at %s: %w", socket, err)
}
