package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent"
	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/enrolment"
	"github.com/bothy-edge/bothy/updater/mqtt"
	"github.com/bothy-edge/bothy/updater/trust"
)

// enrolling is one call of `bothy enroll`.
type enrolling struct {
	device, seal    string // of the flags
	request, answer string // files instead of the broker
	timeout         time.Duration
	plain           bool
}

func enrollCommand(o *options) *cobra.Command {
	var e enrolling
	cmd := &cobra.Command{
		Use: "enroll FILE", Short: "Make this box a device of a fleet",
		Long: "Make this box a device of a fleet. FILE is a token of `bothy fleet enroll token`; the\nbox makes its key, which never leaves, sends the public half and waits for approval.\n" +
			"It may be interrupted and run again. Without a broker, --csr-out writes the request to\na file and --answer takes the fleet's. A box that only imports from folders may use\n" +
			"the fleet's enroll.json with --device instead; it gets no certificate. FILE holds a\nsecret or the roots of trust: bring it on a way that you trust.",
		Example: "  bothy enroll press-7.json",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.loadConfig()
			if err != nil {
				return err
			}
			if err := ownState(c.State, os.Geteuid(), strings.Join(os.Args, " ")); err != nil {
				return err
			}
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("cannot read the token or ticket: %w", err)
			}
			e.plain = c.Broker.AllowPlaintext
			dir := filepath.Join(c.State, agent.IdentityFolder)
			id, err := e.run(cmd, dir, args[0], raw)
			if err != nil || id == nil {
				return folderHint(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "device %q of tenant %q is enrolled\n", id.Device, id.Tenant)
			if !isToken(raw) { // of a token the fleet knows the key, by the fingerprint that was shown
				fmt.Fprintf(cmd.OutOrStdout(), "device key: %x\n", id.Key.Public().(ed25519.PublicKey))
			}
			fmt.Fprintln(os.Stderr, "bothy: hint: restart the agent if it is running, then look at `bothy status`")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&e.device, "device", "", "name of this box, with enroll.json")
	f.StringVar(&e.request, "csr-out", "", "write the request to this `FILE` and end")
	f.StringVar(&e.answer, "answer", "", "`FILE` with the fleet's answer")
	f.StringVar(&e.seal, "seal", "", "seal the key to this box: tpm2, host or host+tpm2")
	f.DurationVar(&e.timeout, "timeout", 0, "give up waiting after this (default: never)")
	return cmd
}

// run enrols; no identity without an error means that the request was written to a file.
func (e enrolling) run(cmd *cobra.Command, dir, file string, raw []byte) (*trust.Identity, error) {
	if !isToken(raw) {
		return e.byTicket(dir, raw)
	}
	token, err := enrolment.ParseToken(raw)
	if err != nil {
		return nil, err
	}
	if e.device != "" && e.device != token.Device {
		return nil, withHint{fmt.Errorf("cannot enrol: the fleet gives the name, this token's is %q", token.Device), "bothy enroll " + file}
	}
	if have, err := trust.LoadIdentity(dir); err == nil && (have.Tenant != token.Tenant || !token.SameRoots(have.CatalogRoot, have.DirectorRoot) || token.Device != "" && token.Device != have.Device) {
		return nil, fmt.Errorf("cannot enrol: %s holds the identity of device %q of tenant %q; remove that folder to enrol anew", dir, have.Device, have.Tenant)
	}
	key, err := e.key(cmd, dir)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "key of this box: %s\n", enrolment.Fingerprint(key.Public().(ed25519.PublicKey)))
	if e.request != "" {
		return nil, e.writeRequest(cmd, token, key, file)
	}
	answer, err := e.ask(cmd, token, key, file)
	if err != nil {
		return nil, err
	}
	id, err := trust.EnrollWith(dir, answer.Ticket(token), answer.Device, trust.Credentials{
		Certificate: []byte(answer.Certificate), Authority: []byte(answer.Authority), BrokerCA: []byte(token.BrokerCA),
	})
	return &id, err
}

// isToken tells a token from a ticket: only the first has an id.
func isToken(raw []byte) bool {
	var kind struct {
		ID string `json:"id"`
	}
	return json.Unmarshal(raw, &kind) == nil && kind.ID != ""
}

func (e enrolling) byTicket(dir string, raw []byte) (*trust.Identity, error) {
	ticket, err := trust.ParseTicket(raw)
	if err != nil {
		return nil, withHint{err, "use a token: bothy fleet enroll token DIR --device NAME --out FILE"}
	}
	if e.device == "" {
		return nil, usageError{errors.New("--device is missing: a ticket names no box")}
	}
	id, err := trust.Enroll(dir, ticket, e.device)
	return &id, err
}

func (e enrolling) key(cmd *cobra.Command, dir string) (ed25519.PrivateKey, error) {
	if e.seal == "" {
		key, err := trust.DeviceKey(dir)
		if err == nil && trust.HasTPM(cmd.Context()) && !sealed(dir) {
			fmt.Fprintln(cmd.ErrOrStderr(), "bothy: hint: this box has a TPM; `--seal tpm2` on a fresh enrolment keeps the key from being copied")
		}
		return key, err
	}
	if !slices.Contains([]string{"tpm2", "host", "host+tpm2"}, e.seal) {
		return nil, usageError{fmt.Errorf("cannot seal with %q: want tpm2, host or host+tpm2", e.seal)}
	}
	key, err := trust.SealDeviceKey(cmd.Context(), dir, e.seal)
	if err == nil && sealed(dir) {
		fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: put into the agent's unit: LoadCredentialEncrypted=%s:%s\n", trust.SealName, filepath.Join(dir, trust.SealedKeyFile))
	}
	return key, err
}

func sealed(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, trust.SealedKeyFile))
	return err == nil
}

func (e enrolling) writeRequest(cmd *cobra.Command, token enrolment.Token, key ed25519.PrivateKey, file string) error {
	raw, err := enrolment.MakeRequest(token, key)
	if err != nil {
		return err
	}
	if err := store.WriteFile(e.request, append(raw, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "request for token %s: %s\n", token.ID, e.request)
	fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: where the fleet is: bothy fleet enroll approve DIR --csr %s --out answer.json; then here: bothy enroll %s --answer answer.json\n", filepath.Base(e.request), file)
	return nil
}

// ask gets the fleet's answer, from a file or over the broker.
func (e enrolling) ask(cmd *cobra.Command, token enrolment.Token, key ed25519.PrivateKey, file string) (enrolment.Answer, error) {
	if e.answer != "" {
		raw, err := os.ReadFile(e.answer)
		if err != nil {
			return enrolment.Answer{}, fmt.Errorf("cannot read the answer: %w", err)
		}
		a, err := enrolment.OpenAnswer(token, key.Public().(ed25519.PublicKey), raw)
		if err == nil && a.State != enrolment.Approved {
			err = fmt.Errorf("cannot enrol: the fleet's answer is %q %s", a.State, a.Reason)
		}
		return a, err
	}
	if token.Login() == "" {
		return enrolment.Answer{}, withHint{errors.New("cannot enrol: the fleet has no broker"), "bothy enroll " + file + " --csr-out request.json"}
	}
	ctx := cmd.Context()
	if e.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.timeout)
		defer cancel()
	}
	a, err := enrolment.Exchange{
		Token: token, Key: key, Session: mqtt.Config{AllowPlain: e.plain},
		Tell: func(pending enrolment.Answer, trouble string) { tellWaiting(cmd, token, pending, trouble) },
	}.Run(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return a, withHint{errors.New("not enrolled yet; the key and the request stay"), "bothy enroll " + file}
	}
	return a, err
}

func tellWaiting(cmd *cobra.Command, token enrolment.Token, pending enrolment.Answer, trouble string) {
	if trouble != "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "waiting for %s: %s\n", token.Login(), trouble)
		return
	}
	fmt.Fprintln(cmd.ErrOrStderr(), strings.TrimSpace("waiting for approval "+pending.Reason))
	fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: where the fleet is: bothy fleet enroll approve DIR %s\n", cmp.Or(token.Device, token.ID+" --device NAME"))
}

// ownState refuses to write into a state folder of somebody else. Root could, and the agent, which runs as the
// folder's owner, could not read its key then and would not start.
func ownState(state string, euid int, command string) error {
	info, err := os.Stat(state)
	if err != nil {
		return nil // made by this command, or refused where it writes
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == euid {
		return nil
	}
	name := strconv.Itoa(int(owner.Uid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return withHint{fmt.Errorf("cannot enrol: %s belongs to %s, who could not read the key", state, name), "sudo runuser -u " + name + " -- " + command}
}
