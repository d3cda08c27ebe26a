package caller

import (
	"strings"
	"testing"
)

const hexID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestUnitOwnerAndContainerOfCgroup(t *testing.T) {
	for _, c := range []struct {
		path, unit, container string
		owner                 uint32
		ok                    bool
	}{
		{"/", "", "", nobody, true},
		{"/system.slice/bothy.service", "bothy.service", "", nobody, true},
		{"/system.slice/_cpu.service", "cpu.service", "", nobody, true},
		{"/system.slice/bothy.service/engine-1", "bothy.service", "", nobody, true},
		{"/bothy.slice/bothy-engines.slice/bothy-engine@a1.service", "bothy-engine@a1.service", "", nobody, true},
		{"/system.slice/docker-" + hexID + ".scope", "docker-" + hexID + ".scope", hexID, nobody, true},
		{"/machine.slice/libpod-" + hexID + ".scope/container", "libpod-" + hexID + ".scope", hexID, nobody, true},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-" + hexID + ".scope", "cri-containerd-" + hexID + ".scope", hexID, nobody, true},
		{"/docker/" + hexID, "", hexID, nobody, true},
		{"/kubepods/burstable/pod1/" + hexID, "", hexID, nobody, true},
		{"/docker/" + hexID[1:], "", "", nobody, true},
		{"/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "", 1000, true},
		// A user's own manager names what lies below it: neither unit nor container is believed.
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/evil-bothy.service", "user@1000.service", "", 1000, true},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + hexID + ".scope", "user@1000.service", "", 1000, true},
		{"/system.slice/evil.service/docker-" + hexID + ".scope", "evil.service", "", nobody, true},
		{"/user.slice/system.slice/bothy.service", "bothy.service", "", 0, false},
		{"/user.slice/user-x.slice/a.service", "a.service", "", 0, false},
		{"/..", "", "", 0, false},
		{"/../../system.slice/x.service", "x.service", "", 0, false},
		{"system.slice/x.service", "x.service", "", 0, false},
	} {
		if got := unitOf(c.path); got != c.unit {
			t.Errorf("unit of %s: got %q, want %q", c.path, got, c.unit)
		}
		if got := containerOf(c.path); got != c.container {
			t.Errorf("container of %s: got %q, want %q", c.path, got, c.container)
		}
		if owner, ok := cgroupOwner(c.path); ok != c.ok || owner != c.owner {
			t.Errorf("owner of %s: got %d %t, want %d %t", c.path, owner, ok, c.owner, c.ok)
		}
	}
}

func TestCgroupFileOfEveryHierarchy(t *testing.T) {
	for _, c := range []struct {
		name, file, want string
		ok               bool
	}{
		{"unified", "0::/system.slice/a.service\n", "/system.slice/a.service", true},
		{"legacy", "9:name=systemd:/system.slice/a.service\n4:memory:/other\n", "/system.slice/a.service", true},
		{"hybrid, unified used", "1:name=systemd:/\n0::/system.slice/a.service\n", "/system.slice/a.service", true},
		{"hybrid, unified empty", "1:name=systemd:/system.slice/a.service\n0::/\n", "/system.slice/a.service", true},
		{"a name with colons", "0::/a:name=x:b.scope\n", "/a:name=x:b.scope", true},
		{"no systemd", "4:memory:/x\n", "", false},
		{"empty", "", "", false},
	} {
		if got, ok := parseCgroup(c.file); got != c.want || ok != c.ok {
			t.Errorf("%s: got %q %t, want %q %t", c.name, got, ok, c.want, c.ok)
		}
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add("0::/system.slice/docker-" + hexID + ".scope\n")
	f.Add("1:name=systemd:/user.slice/user-0.slice/x.service\n0::/../x")
	f.Fuzz(func(t *testing.T, file string) {
		path, ok := parseCgroup(file)
		if !ok {
			return
		}
		if unit := unitOf(path); strings.Contains(unit, "/") {
			t.Errorf("the unit %q of %q has a slash", unit, path)
		}
		if id := containerOf(path); id != "" && !isContainerID(id) {
			t.Errorf("the container %q of %q is no id", id, path)
		}
	})
}
