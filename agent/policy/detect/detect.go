// Package detect finds personal and secret data in text: payment cards, IBANs,
// e-mail addresses, private keys and API tokens, national ids, telephone numbers,
// addresses of machines and wallets, dates of birth and numbers of patients.
//
// Every kind is validated beyond its pattern (Luhn and issuer ranges, mod 97 and
// the country's length, key material after the header, entropy), so a finding is
// a fact to route on rather than a hint. One pass visits each byte once; a table
// names the few bytes at which a detector wakes up, and a new kind is a new
// trigger in that table.
//
// Text is normalised before it is judged where it has to be: full-width and
// other decimal digits, Unicode spaces and dashes, zero-width characters and
// literal \u escapes are folded to ASCII, and findings are mapped back to the
// bytes of the text that was given.
//
// Scan looks at one text, Parts at a text in pieces, JSON at a request body:
// every key and every string value, unescaped, and the pieces of its messages
// once more as if they were one text. Nothing is kept and nothing is logged.
// All functions are safe for concurrent use.
package detect

import "slices"

// Kind names what was found. The strings appear in policies, records and JSON.
type Kind string

// The kinds this package finds.
const (
	// Card is a payment card number: 13 to 19 digits, a known issuer range, Luhn.
	Card Kind = "card"
	// IBAN is a bank account number: a known country, its length, mod 97.
	IBAN Kind = "iban"
	// Email is an e-mail address with a plausible domain.
	Email Kind = "email"
	// PrivateKey is a PEM or age private key with its key material.
	PrivateKey Kind = "private-key"
	// APIToken is a credential with a vendor's prefix and enough entropy, or a JWT.
	APIToken Kind = "api-token"
	// BirthDate is a day after words that say that somebody was born on it.
	BirthDate Kind = "birth-date"
	// IP is an address of IPv4 or IPv6 that names a machine other than this one.
	IP Kind = "ip"
	// MAC is the hardware address of a network card.
	MAC Kind = "mac"
	// MedicalRecord is the number of a patient or a case, after words that say so.
	MedicalRecord Kind = "medical-record"
	// NationalID is a number that a state gave a person: its own checksum, or its
	// name before it where the checksum is weak.
	NationalID Kind = "national-id"
	// Phone is a telephone number: a calling code with a length that the country
	// has, or any number after words that say so.
	Phone Kind = "phone"
	// Wallet is an address of Bitcoin, Litecoin, Dogecoin, Tron, Cardano or Ethereum, with its checksum.
	Wallet Kind = "wallet"
)

// Finding is one hit: bytes Start (inclusive) to End (exclusive) of the text
// that was given; for JSON, of the body as it was sent, escapes included.
type Finding struct {
	Kind  Kind `json:"kind"`
	Start int  `json:"start"`
	End   int  `json:"end"`
}

// All lists every kind, in the order of its name. The caller owns the slice.
func All() []Kind {
	return []Kind{APIToken, BirthDate, Card, Email, IBAN, IP, MAC, MedicalRecord, NationalID, Phone, PrivateKey, Wallet}
}

// Kinds reduces findings to the distinct kinds, in the order of their names;
// nil when there are none.
func Kinds(found []Finding) []Kind {
	var kinds []Kind
	for _, f := range found {
		if !slices.Contains(kinds, f.Kind) {
			kinds = append(kinds, f.Kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}
