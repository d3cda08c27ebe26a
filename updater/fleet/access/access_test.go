package access

import (
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"
)

func site() Site {
	return Site{
		Tenant: "acme", Depot: "depot", Logins: map[string]string{"t1": "secret", "t2": "other"},
		Files: map[string][]string{"press-7": {strings.Repeat("ab", 32)}, "press-8": nil},
	}
}

// What a broker makes of these is tested against Mosquitto, in cmd/bothy.
func TestOnlyTheDepotHasMoreThanItsOwnTopics(t *testing.T) {
	user := ""
	for line := range strings.Lines(site().DeviceACL()) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "user "); ok {
			user = name
		}
		switch {
		case line == "", strings.HasPrefix(line, "#"), strings.HasPrefix(line, "user "):
		case user == "depot" && line == "topic readwrite bothy/1/acme/#":
		case user == "press-7" && line == "topic read bothy/1/acme/b/"+strings.Repeat("ab", 16)+"/cast":
		case strings.HasPrefix(line, "pattern write "):
			if !strings.Contains(line, "%u") {
				t.Errorf("every device may write %q", line)
			}
		case strings.HasPrefix(line, "pattern read "):
			if strings.Contains(line, "/d/") && !strings.Contains(line, "/d/%u/") || strings.Contains(line, "#") {
				t.Errorf("every device may read %q", line)
			}
		default:
			t.Errorf("got the line %q for %q, want none like it", line, user)
		}
	}
	if strings.Contains(site().DeviceACL(), "user press-8") {
		t.Error("a device without files has a section of its own")
	}
}

func TestPasswordsAreWrittenAsMosquittoReadsThem(t *testing.T) {
	text, err := site().Passwords()
	if err != nil {
		t.Fatal(err)
	}
	again, err := site().Passwords()
	if err != nil || again == text {
		t.Errorf("got the same salts twice (%v)", err)
	}
	lines := regexp.MustCompile(`(?m)^(t[12]):\$7\$101\$([A-Za-z0-9+/=]{16})\$([A-Za-z0-9+/=]{88})$`).FindAllStringSubmatch(text, -1)
	if len(lines) != 2 {
		t.Fatalf("got %q, want two lines", text)
	}
	for _, m := range lines {
		salt, _ := base64.StdEncoding.DecodeString(m[2])
		hash, err := pbkdf2.Key(sha512.New, site().Logins[m[1]], salt, 101, 64)
		if err != nil || base64.StdEncoding.EncodeToString(hash) != m[3] {
			t.Errorf("the line of %s does not open with its password (%v)", m[1], err)
		}
	}
}

func TestConfigurationHasNoListenerForTokensWithoutAPort(t *testing.T) {
	l := Listeners{Folder: "/etc/mosquitto/bothy", Port: 8883, DeviceCA: "ca", CRL: "crl", Certificate: "crt", Key: "key"}
	if text := l.Config(); strings.Contains(text, "require_certificate false") || strings.Count(text, "\nlistener ") != 1 {
		t.Errorf("got\n%s\nwant one listener, with certificates", text)
	}
	l.EnrollPort = 8884
	text := l.Config()
	if strings.Count(text, "allow_anonymous false") != 2 || strings.Count(text, "acl_file /etc/mosquitto/bothy/") != 2 {
		t.Errorf("got\n%s\nwant nobody anonymous and a list for each", text)
	}
	if i, j := strings.Index(text, "per_listener_settings true"), strings.Index(text, "allow_anonymous"); i < 0 || i > j {
		t.Error("per_listener_settings must come before what it is about (mosquitto.conf(5))")
	}
}
