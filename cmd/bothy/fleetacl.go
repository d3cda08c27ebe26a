package main

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bothy-edge/bothy/agent/store"
	"github.com/bothy-edge/bothy/updater/fleet"
	"github.com/bothy-edge/bothy/updater/fleet/access"
)

func fleetACL() *cobra.Command {
	var format, out string
	var hosts []string
	cmd := &cobra.Command{
		Use: "acl DIR", Short: "Write access lists, logins and certificates for a Mosquitto broker",
		Long: "Write what a Mosquitto broker needs into a folder: access lists, logins of tokens, the\nrevocation list, its certificate and a piece of mosquitto.conf. Run it again after a\n" +
			"token, an assignment or a revocation, then reload the broker. Devices listen at the\nport of the fleet's broker, boxes with tokens at that of enroll_broker.",
		Example: "  bothy fleet acl /srv/fleet --out /etc/mosquitto/bothy && systemctl reload mosquitto",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "mosquitto" {
				return usageError{fmt.Errorf("cannot write access lists for %q: want mosquitto", format)}
			}
			f, err := fleet.Open(args[0])
			if err != nil {
				return err
			}
			if out == "" {
				out = filepath.Join(f.Dir(), "broker")
			}
			if out, err = filepath.Abs(out); err != nil {
				return err
			}
			if err := writeBroker(f, out, hosts); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\n", filepath.Join(out, access.Configuration))
			fmt.Fprintf(cmd.ErrOrStderr(), "bothy: hint: let mosquitto.conf have \"include_dir %s\", readable for the broker's user; then systemctl reload mosquitto\n", out)
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "mosquitto", "broker to write for")
	cmd.Flags().StringVar(&out, "out", "", "`FOLDER` to write to (default: DIR/broker)")
	cmd.Flags().StringSliceVar(&hosts, "host", nil, "further names or addresses of the broker, for its certificate")
	return cmd
}

// writeBroker writes every file of the broker; the configuration comes last.
func writeBroker(f *fleet.Fleet, out string, hosts []string) error {
	l, host, err := listeners(f, out)
	if err != nil {
		return err
	}
	site, err := siteOf(f)
	if err != nil {
		return err
	}
	passwords, err := site.Passwords()
	if err != nil {
		return err
	}
	files := map[string][]byte{access.DeviceRules: []byte(site.DeviceACL()), access.EnrollRules: []byte(site.EnrollACL()), access.EnrollLogins: []byte(passwords)}
	if files["ca.crt"], err = f.Authority(); err != nil {
		return err
	}
	if err := f.MendRevocations(); err != nil {
		return err
	}
	own, err := f.BrokerCertificate(append([]string{host}, hosts...)...)
	if err != nil {
		return err
	}
	for name, path := range map[string]string{"crl.pem": filepath.Join(f.Dir(), "ca", "crl.pem"), "broker.crt": own.CertFile, "broker.key": own.KeyFile} {
		if files[name], err = os.ReadFile(path); err != nil {
			return fmt.Errorf("cannot write the broker's files: %w", err)
		}
	}
	if err := os.MkdirAll(out, 0o750); err != nil {
		return fmt.Errorf("cannot write the broker's files: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := keepOwner(filepath.Join(out, name), files[name]); err != nil {
			return err
		}
	}
	return keepOwner(filepath.Join(out, access.Configuration), []byte(l.Config()))
}

// keepOwner replaces a file that belongs to whoever the folder belongs to: the
// broker's user, who reads it again on a reload.
func keepOwner(path string, data []byte) error {
	if err := store.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return os.Chown(path, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

func listeners(f *fleet.Fleet, out string) (access.Listeners, string, error) {
	l := access.Listeners{
		Folder: out, DeviceCA: filepath.Join(out, "ca.crt"), CRL: filepath.Join(out, "crl.pem"),
		Certificate: filepath.Join(out, "broker.crt"), Key: filepath.Join(out, "broker.key"),
	}
	host, port, err := tlsAddress(f.Broker())
	if err != nil {
		return l, "", withHint{fmt.Errorf("cannot write for the broker: %w", err), "name it as broker: tls://host:8883 in " + filepath.Join(f.Dir(), "fleet.yaml")}
	}
	l.Port = port
	if f.EnrollBroker() != f.Broker() {
		if _, l.EnrollPort, err = tlsAddress(f.EnrollBroker()); err != nil {
			return l, "", fmt.Errorf("cannot write for the broker: enroll_broker: %w", err)
		}
	}
	return l, host, nil
}

func tlsAddress(broker string) (host string, port int, err error) {
	u, err := url.Parse(broker)
	if err != nil || u.Scheme != "tls" {
		return "", 0, fmt.Errorf("the fleet's broker is %q; certificates need tls://host:port", broker)
	}
	host, text, err := net.SplitHostPort(u.Host)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}

func siteOf(f *fleet.Fleet) (access.Site, error) {
	s := access.Site{Tenant: f.Tenant(), Depot: f.Depot(), Files: map[string][]string{}}
	var err error
	if s.Logins, err = f.TokenLogins(); err != nil {
		return s, err
	}
	devices, err := f.Devices()
	if err != nil {
		return s, err
	}
	for _, d := range devices {
		if r, err := f.Device(d); err == nil && r.State == fleet.DeviceRetired {
			continue
		}
		files, err := f.Assigned(d)
		if err != nil {
			return s, err
		}
		s.Files[d] = slices.Sorted(maps.Keys(files))
	}
	return s, nil
}
