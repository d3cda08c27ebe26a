package release

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Provenance says that a model carries the signature of who made it, in its
// file with the role Signature, and that the fleet verified it when the release
// was added. A device verifies it again when its policy asks for that.
type Provenance struct {
	Method string `json:"method"` // of the signature: "key" or "certificate"
	// Verified is when the fleet verified it, to the second, in UTC. Certificates
	// are judged at this time, also later: a model does not turn bad because the
	// certificate that it was signed with expires.
	Verified time.Time `json:"verified"`
}

// Content lists the files that are the release itself: all but the signature.
func (d Document) Content() []File {
	if d.Provenance == nil {
		return d.Files
	}
	return slices.DeleteFunc(slices.Clone(d.Files), func(f File) bool { return f.Role == Signature })
}

func (d Document) validateProvenance() error {
	p, signatures := d.Provenance, len(d.FilesOf(Signature))
	if p == nil && signatures == 0 {
		return nil
	}
	if p == nil || signatures != 1 {
		return fmt.Errorf("%d files have the role %s; a release with provenance has one, any other none", signatures, Signature)
	}
	if p.Method != "key" && p.Method != "certificate" {
		return fmt.Errorf("provenance by the method %.40q, want key or certificate", p.Method)
	}
	if year := p.Verified.Year(); year < 2000 || year > 9999 || !p.Verified.Equal(p.Verified.Truncate(time.Second)) {
		return errors.New("the time at which the signature was verified is not one, or not whole seconds")
	}
	return nil
}
