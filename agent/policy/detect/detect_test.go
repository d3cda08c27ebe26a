package detect

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const pemBody = "MIIEowIBAAKCAQEAx5r0Zkq3b8v1l2m3n4o5p6q7r8s9t0u1v2w3x4y5z6A7B8C9\n" +
	"D0E1F2G3H4I5J6K7L8M9N0O1P2Q3R4S5T6U7V8W9X0Y1Z2a3b4c5d6e7f8g9h0i1\n"

func pem(label string) string {
	return "-----BEGIN " + label + "-----\n" + pemBody + "-----END " + label + "-----"
}

// Tokens are put together here so that no scanner takes this file for a leak.
var (
	awsID     = "AKIA" + "IOSFODNN7EXAMPLE"
	awsSecret = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
	github    = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
	githubPAT = "github_pat_" + "11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ0123456789abcdefghijkl"
	slack     = "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"
	stripe    = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
	google    = "AIza" + "SyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe"
	openAI    = "sk-proj-" + "abcDEF123ghiJKL456mnoPQR789stuVWX"
	oldOpenAI = "sk-" + "T3BlbkFJabcDEF123ghiJKL456mnoPQR789stuVWXyz01234"
	anthropic = "sk-ant-" + "api03-abcDEF123_ghiJKL456-mnoPQR789stuVWX"
	jwt       = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)

// example is a text with one thing in it.
type example struct {
	kind Kind
	text string
	hit  string // what is found; "" is the whole text
}

func (e example) check(t *testing.T) {
	t.Helper()
	want := e.hit
	if want == "" {
		want = strings.TrimSuffix(e.text, "\n")
	}
	found := Scan(e.text)
	i := slices.IndexFunc(found, func(f Finding) bool { return f.Kind == e.kind })
	if i < 0 {
		t.Errorf("%s in %q: got %v, want %q", e.kind, e.text, found, want)
		return
	}
	if got := e.text[found[i].Start:found[i].End]; got != want {
		t.Errorf("%s in %q: got %q, want %q", e.kind, e.text, got, want)
	}
}

func TestScanFinds(t *testing.T) {
	for _, e := range []example{
		{Card, "4111111111111111", ""},
		{Card, "pay with 4111 1111 1111 1111, please", "4111 1111 1111 1111"},
		{Card, "4111-1111-1111-1111", ""},
		{Card, "4111 - 1111 - 1111 - 1111", ""},
		{Card, "4111.1111.1111.1111", ""},
		{Card, "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", ""},
		{Card, "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1.", "4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1"},
		{Card, "3782 822463 10005", ""},
		{Card, "5555555555554444.", "5555555555554444"},
		{Card, "2223003122003222", ""},
		{Card, "6011111111111117", ""},
		{Card, "3530111333300000", ""},
		{Card, "30569309025904", ""},
		{Card, "6759649826438453", ""},
		{Card, "order 12345 4111 1111 1111 1111 12/27 123", "4111 1111 1111 1111"},
		{Card, "a,5500000000000004,4111111111111111,b", "5500000000000004"},
		{Card, "Visa4111111111111111", "4111111111111111"},
		{Card, "card=4111111111111111&x", "4111111111111111"},
		{Card, "4111\u00a01111\u20091111\u20111111", ""},
		{Card, "4111\u200b1111\ufeff1111\u00ad1111", ""},
		{Card, "４１１１ １１１１ １１１１ １１１１", ""},
		{Card, "٤١١١ ١١١١ ١١١١ ١١١١", ""},
		{Card, `{\"n\":\"\u0034111111111\u003111111\"}`, `\u0034111111111\u003111111`},
		{Card, `first\n4111111111111111\nsecond`, "4111111111111111"},
		{IBAN, "DE89370400440532013000", ""},
		{IBAN, "IBAN: DE89 3704 0044 0532 0130 00 and more", "DE89 3704 0044 0532 0130 00"},
		{IBAN, "gb82 west 1234 5698 7654 32", ""},
		{IBAN, "IBANFR1420041010050500013M02606", "FR1420041010050500013M02606"},
		{IBAN, "MT84MALT011000012345MTLCAST001S", ""},
		{IBAN, "NO93 8601 1117 947.", "NO93 8601 1117 947"},
		{Email, "ada.lovelace+notes@example.co.uk", ""},
		{Email, "<ada@example.org>", "ada@example.org"},
		{Email, "write to ada@example.org.", "ada@example.org"},
		{Email, "it was ada@example.org.2 people know", "ada@example.org"},
		{Email, "'ada@example.org'", "ada@example.org"},
		{Email, "mailto:o'brien@sub.example.museum?x", "o'brien@sub.example.museum"},
		{Email, "jörg@müller.example", ""},
		{Email, "12345@163.com", ""},
		{Email, "x@xn--mller-kva.xn--p1ai", ""},
		{Email, "ada＠example．org", ""},
		{PrivateKey, pem("RSA PRIVATE KEY"), ""},
		{PrivateKey, "key:\n" + pem("PRIVATE KEY") + "\nend", pem("PRIVATE KEY")},
		{PrivateKey, pem("OPENSSH PRIVATE KEY"), ""},
		{PrivateKey, pem("PGP PRIVATE KEY BLOCK"), ""},
		{PrivateKey, strings.ReplaceAll(pem("EC PRIVATE KEY"), "\n", `\n`), ""},
		{PrivateKey, "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n" + pemBody, ""},
		{PrivateKey, "AGE-SECRET-KEY-1" + "GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZAB", ""},
		{APIToken, awsID, ""},
		{APIToken, "aws_secret_access_key = \"" + awsSecret + "\"", awsSecret},
		{APIToken, `"SecretAccessKey": "` + awsSecret + `"`, awsSecret},
		{APIToken, "token=" + github + ";", github},
		{APIToken, githubPAT, ""},
		{APIToken, slack, ""},
		{APIToken, stripe, ""},
		{APIToken, google, ""},
		{APIToken, openAI, ""},
		{APIToken, oldOpenAI, ""},
		{APIToken, "x-api-key: " + anthropic, anthropic},
		{APIToken, "Bearer " + jwt + " ok", jwt},
	} {
		e.check(t)
	}
}

func TestScanLeavesAlone(t *testing.T) {
	for _, text := range []string{
		"",
		"4111111111111112",                      // Luhn
		"1111111111111117",                      // no issuer
		"41111111111111111111111",               // too long
		"0.4111111111111111",                    // a fraction
		"4111111111111111.5",                    // a number with a point
		"550e8400-e29b-41d4-a716-446655440000",  // a UUID
		"a4111111111111111",                     // hexadecimal
		"4111111111111111f",                     // hexadecimal
		"1700000000000 1700000000001",           // milliseconds
		"1 4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 3 7", // a row of numbers
		"4111\n1111\n1111\n1111",                // a column of numbers
		"DE89370400440532013001",                // mod 97
		"DE8937040044053201300",                 // too short
		"DE893704004405320130000",               // too long
		"ZZ89370400440532013000",                // no country
		"xDE1289370400440532013000",
		"user@localhost",
		"icon@2x.png",
		"@app.route('/x')",
		"getty@tty1.service",
		"react@18.2.0",
		"git@github.com:owner/name.git",
		"a @ b . c",
		"-----BEGIN PRIVATE KEY-----",
		"-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
		strings.ReplaceAll(pem("CERTIFICATE"), "x", "y"),
		pem("PUBLIC KEY"),
		strings.Repeat("-", 80),
		"AKIAXXXXXXXXXXXXXXXX",
		"AKIAIOSFODNN7EXAMPL",
		"ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		"sk-circle-fade-dot",
		"task-abcDEF123ghiJKL456mnoPQR789stuVWXyz",
		"sk_live_",
		"eyJhbGciOiJIUzI1NiJ9",
		"eyJub2FsZyI6MX0xx.eyJzdWIiOiIxIn0x.c2ln",
		"the secret_access_key is in the vault",
	} {
		if found := Scan(text); len(found) > 0 {
			t.Errorf("%q: got %v, want nothing", text, found)
		}
	}
}

func TestRandomCardsAreFoundWhereverTheyStand(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	noise := []string{"", "x ", "the number is ", "№ ", "(", "\"", "a: 12, b: ", "https://a.b/c?d=", "ﬁ — ", "\u00a0"}
	for range 3000 {
		digits := randomCard(rng)
		text, card := "", regroup(rng, digits)
		text += noise[rng.IntN(len(noise))]
		start := len(text)
		text += card
		end := len(text)
		text += []string{"", ".", " ok", ")", "\n", "\u200b.", ", and"}[rng.IntN(7)]
		found := Scan(text)
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Kind == Card && f.Start == start && f.End >= start+13 && f.End <= end+3 }) {
			t.Fatalf("%q: got %v, want a card at %d-%d", text, found, start, end)
		}
	}
}

// randomCard is a number of a random issuer with a right check digit.
func randomCard(rng *rand.Rand) string {
	issuers := []struct {
		prefix string
		length int
	}{{"4", 16}, {"51", 16}, {"2221", 16}, {"34", 15}, {"37", 15}, {"6011", 16}, {"36", 14}, {"3530", 16}, {"62", 19}, {"5018", 13}}
	is := issuers[rng.IntN(len(issuers))]
	d := []byte(is.prefix)
	for len(d) < is.length-1 {
		d = append(d, byte('0'+rng.IntN(10)))
	}
	for c := byte('0'); ; c++ {
		if luhn(append(d, c)) {
			return string(append(d, c))
		}
	}
}

// regroup writes digits the way people do.
func regroup(rng *rand.Rand, digits string) string {
	separator := []string{" ", "-", "\u00a0", " - ", "\u2011"}[rng.IntN(5)]
	size := []int{len(digits), 4, 4, 6, 1}[rng.IntN(5)]
	if size == 1 && separator == " - " {
		separator = " "
	}
	var groups []string
	for ; len(digits) > size; digits = digits[size:] {
		groups = append(groups, digits[:size])
	}
	return strings.Join(append(groups, digits), separator)
}

func TestTablesAreInOrder(t *testing.T) {
	if !slices.IsSorted(notDomains) {
		t.Error("notDomains is not sorted: it is searched by halves")
	}
	for i, v := range vendors {
		for _, earlier := range vendors[:i] {
			if strings.HasPrefix(v.prefix, earlier.prefix) {
				t.Errorf("%q is never tried: %q comes first", v.prefix, earlier.prefix)
			}
		}
	}
}

func TestKindsAreDistinctAndSorted(t *testing.T) {
	found := Scan("ada@example.org bob@example.org 4111111111111111 " + github)
	if diff := cmp.Diff([]Kind{APIToken, Card, Email}, Kinds(found)); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	if Kinds(nil) != nil {
		t.Error("kinds of nothing are not nil")
	}
}

func TestPartsFindsWhatIsSplit(t *testing.T) {
	for _, parts := range [][]string{
		{"my card is 4111 11", "11 1111 1111 thanks"},
		{"4111 ", "1111 ", "1111 ", "1111"},
		strings.Split("4111111111111111", ""),
	} {
		joined := strings.Join(parts, "")
		found := Parts(parts)
		if len(found) != 1 || found[0].Kind != Card || strings.Trim(joined[found[0].Start:found[0].End], "0123456789 ") != "" {
			t.Errorf("%q: got %v, want one card", parts, found)
		}
	}
	// What is whole in its own part is found though the neighbours spoil it.
	found := Parts([]string{"12", "4111111111111111", "34"})
	if diff := cmp.Diff([]Finding{{Card, 2, 18}}, found); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func TestFindingsPointIntoTheOriginalOfFoldedText(t *testing.T) {
	text := "\u200b\u200bü ４111\u200b1111 1111\u00a0１１１１\u200b, ada＠example.org \\u0041"
	want := []string{"４111\u200b1111 1111\u00a0１１１１", "ada＠example.org"}
	found := Scan(text)
	var got []string
	for _, f := range found {
		got = append(got, strings.TrimSuffix(text[f.Start:f.End], "\u200b"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("texts (-want +got):\n%s", diff)
	}
}

// Texts made to make a detector look at the same bytes again and again: each may
// take a few times what prose takes, not thousands of times.
func TestScanIsLinearInHostileText(t *testing.T) {
	const size = 1 << 20
	for _, unit := range []string{
		"eyJ-", "eyJhbGciOiJIUzI1NiJ9.-", "eyJ.", "@", "a@", "a@b.", "4 ", "4-", "4111 ", "DE89 ", "DE89", "sk-ant-", "ya29.", "-----BEGIN PRIVATE KEY-----",
		"-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAA", "\\u0034", "\u200b", "aws_secret_access_key", "----", "_sk_live_",
	} {
		text := strings.Repeat(unit, size/len(unit))
		start := time.Now()
		Scan(text)
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("a megabyte of %q took %v", unit, took)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{"4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "a@b.co", pem("PRIVATE KEY"), jwt, "\\u0034\u200b４", "-----BEGIN ", "eyJ.", "sk-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for i, found := range Scan(text) {
			if found.Start < 0 || found.Start >= found.End || found.End > len(text) {
				t.Fatalf("finding %d of %q is %v", i, text, found)
			}
		}
		for _, found := range Parts([]string{text, text}) {
			if found.Start < 0 || found.Start >= found.End || found.End > 2*len(text) {
				t.Fatalf("finding of %q twice is %v", text, found)
			}
		}
	})
}

func ExampleScan() {
	text := "send it to ada@example.org, card 4111 1111 1111 1111"
	for _, f := range Scan(text) {
		fmt.Println(f.Kind, text[f.Start:f.End])
	}
	// Output:
	// email ada@example.org
	// card 4111 1111 1111 1111
}
