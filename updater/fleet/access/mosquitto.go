package access

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bothy-edge/bothy/updater/mqtt/wire"
)

// Site is a fleet as its broker sees it.
type Site struct {
	Tenant string
	Depot  string
	Logins map[string]string   // enrolment tokens and their passwords
	Files  map[string][]string // by device: SHA-256 digests of the files that its set names
}

// Files of a Mosquitto broker, by name, in the folder that Listeners names.
const (
	DeviceRules   = "devices.acl"
	EnrollRules   = "enroll.acl"
	EnrollLogins  = "enroll.passwd"
	Configuration = "mosquitto.conf"
)

// anyone stands for the name of the client in a Mosquitto pattern.
const anyone = "%u"

// DeviceACL is the access list of the listener for devices and the depot, where
// the common name of the certificate is the user name.
func (s Site) DeviceACL() string {
	t := wire.Topics{Tenant: s.Tenant, Device: anyone}
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by bothy fleet acl; changes are lost. Users are common names of certificates.\n# Mosquitto warns of patterns without %%u; these two are for every device.\nuser %s\ntopic readwrite %s\n", s.Depot, t.All())
	for _, device := range slices.Sorted(maps.Keys(s.Files)) {
		if len(s.Files[device]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\nuser %s\n", device)
		for _, digest := range s.Files[device] {
			if raw, err := hex.DecodeString(digest); err == nil && len(raw) == 32 {
				fmt.Fprintf(&b, "topic read %s\n", t.Cast([16]byte(raw)))
			}
		}
	}
	b.WriteString("\n# of every device, its own\n")
	for _, topic := range []string{t.State(), t.Event(), t.Online(), t.CertificateRequest(), t.Request("+"), feedback(t)} {
		fmt.Fprintf(&b, "pattern write %s\n", topic)
	}
	for _, topic := range []string{t.Want(), t.Command(), t.Reply(), t.Certificate(), t.Catalog(), t.Info("+")} {
		fmt.Fprintf(&b, "pattern read %s\n", topic)
	}
	return b.String()
}

// feedback is the device's own, on whatever cast.
func feedback(t wire.Topics) string {
	return strings.Replace(t.Feedback([16]byte{}), "/b/"+strings.Repeat("0", 32)+"/", "/b/+/", 1)
}

// EnrollACL is the access list of the listener for boxes that only have a token.
func (s Site) EnrollACL() string {
	t := wire.Topics{Tenant: s.Tenant}
	return "# Written by bothy fleet acl; changes are lost. Users are enrolment tokens.\n" +
		"pattern write " + t.EnrollRequest(anyone) + "\npattern read " + t.EnrollAnswer(anyone) + "\n"
}

// Costs of a login. The passwords are 256 random bits: they need no slow hash.
const (
	loginRounds = 101 // as mosquitto_passwd writes them
	loginSalt   = 12
)

// Passwords is the password file of the tokens, in Mosquitto's $7$ format:
// PBKDF2 with HMAC-SHA-512, rounds, salt and hash in base64.
func (s Site) Passwords() (string, error) {
	var b strings.Builder
	for _, token := range slices.Sorted(maps.Keys(s.Logins)) {
		salt := make([]byte, loginSalt)
		_, _ = rand.Read(salt) // never fails (crypto/rand)
		hash, err := pbkdf2.Key(sha512.New, s.Logins[token], salt, loginRounds, sha512.Size)
		if err != nil {
			return "", fmt.Errorf("cannot hash the password of token %s: %w", token, err)
		}
		fmt.Fprintf(&b, "%s:$7$%d$%s$%s\n", token, loginRounds, base64.StdEncoding.EncodeToString(salt), base64.StdEncoding.EncodeToString(hash))
	}
	return b.String(), nil
}

// Listeners is where the broker listens and where its files lie.
type Listeners struct {
	Folder      string // of the files that this package writes
	Port        int    // devices and the depot, with certificates
	EnrollPort  int    // tokens; 0: nobody enrols over the broker
	DeviceCA    string // who signs the certificates of devices
	CRL         string
	Certificate string // the broker's own
	Key         string
}

// Config is a piece of mosquitto.conf.
func (l Listeners) Config() string {
	var b strings.Builder
	b.WriteString("# Written by bothy fleet acl; include_dir or copy it into mosquitto.conf.\n" +
		"# After a change of these files: systemctl reload mosquitto (SIGHUP).\n" +
		"per_listener_settings true\nset_tcp_nodelay true\n")
	tls := fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\n", l.DeviceCA, l.Certificate, l.Key)
	fmt.Fprintf(&b, "\nlistener %d\n%scrlfile %s\nrequire_certificate true\nuse_identity_as_username true\nallow_anonymous false\nacl_file %s/%s\n",
		l.Port, tls, l.CRL, l.Folder, DeviceRules)
	if l.EnrollPort != 0 {
		fmt.Fprintf(&b, "\nlistener %d\n%srequire_certificate false\nallow_anonymous false\npassword_file %s/%s\nacl_file %s/%s\n",
			l.EnrollPort, tls, l.Folder, EnrollLogins, l.Folder, EnrollRules)
	}
	return b.String()
}
