package detect

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// corpusSize is how many texts with and without each kind the corpus has, corpusSeed what it is made from.
const (
	corpusSize = 1000
	corpusSeed = 20260301
)

// writer makes the labelled texts of the corpus. What it writes as a positive
// is valid by the rules of who issues it; what it writes as a hard negative
// looks like one and is something else: an order, a version, a time, a price.
type writer struct{ *rand.Rand }

func (w writer) pick(of ...string) string { return of[w.IntN(len(of))] }

// fill writes a digit for each # of a pattern, 1 to 9 for each %, a capital for each @, a hexadecimal digit for each &.
func (w writer) fill(pattern string) string {
	var b strings.Builder
	for _, c := range pattern {
		switch c {
		case '#':
			b.WriteByte('0' + byte(w.IntN(10)))
		case '%':
			b.WriteByte('1' + byte(w.IntN(9)))
		case '@':
			b.WriteByte('A' + byte(w.IntN(26)))
		case '&':
			b.WriteByte("0123456789abcdef"[w.IntN(16)])
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// said puts something into the middle of a sentence or a record.
func (w writer) said(what string) string {
	return w.pick(
		"Please look at this: %s. Thank you for the help!", "%s", "| 17 | %s | open |", `{"id": 4, "value": "%s", "ok": true}`,
		"After the call on 3 March we noted %s and closed the ticket.", "Notiz vom Montag: %s (siehe unten)", "log line 204 %s retry=3", "- %s\n- and two more",
		"The summary of the case, in 120 words, with %s left out.", "key=%s&page=2")
}

func (w writer) inText(what string) string { return strings.Replace(w.said(what), "%s", what, 1) }

// until tries patterns filled at random until one is valid.
func (w writer) until(pattern string, valid func(string) bool) string {
	for {
		if text := w.fill(pattern); valid(text) {
			return text
		}
	}
}

func (w writer) card() string {
	n := w.until(w.pick("4###############", "5%##############", "34#############", "37#############", "6011############", "35##############"),
		func(n string) bool { return isCard([]byte(n)) })
	switch w.IntN(3) {
	case 0:
		return n
	case 1:
		return strings.Join([]string{n[:4], n[4:8], n[8:12], n[12:]}, " ")
	}
	return strings.Join([]string{n[:4], n[4:8], n[8:12], n[12:]}, "-")
}

func (w writer) iban() string {
	body := w.fill(w.pick("DE########0#########", "FR###########0###########"[:25], "NL@@@@##########", "GB@@@@##############", "ES####################", "IT@###########0###########"[:25]))
	rest := 0
	for _, c := range []byte(body[2:] + body[:2] + "00") {
		rest = mod97(rest, c)
	}
	full := fmt.Sprintf("%s%02d%s", body[:2], 98-rest, body[2:])
	if w.IntN(2) == 0 {
		return full
	}
	var groups []string
	for g := range slices.Chunk([]byte(full), 4) {
		groups = append(groups, string(g))
	}
	return strings.Join(groups, " ")
}

func (w writer) national() string {
	f := formats[w.IntN(len(formats))]
	all := strings.Split(f.shapes, "|")
	shape := all[w.IntN(len(all))]
	n := w.until(expand(shape), func(n string) bool { return f.valid(onlyDigits(n)) && (f.names != nil || n[0] != '0') })
	if f.names != nil && (!f.bare || !strings.ContainsAny(shape, " -./")) {
		return w.nameOf(f.names) + w.pick(" ", ": ", " no. ", " is ") + n
	}
	return n
}

// nameOf is one of the names, written as people write it.
func (w writer) nameOf(n *names) string {
	var all []string
	for _, words := range n {
		all = append(all, words...)
	}
	name := strings.TrimSuffix(all[w.IntN(len(all))], "$")
	if name[0] >= 0x80 {
		return name
	}
	return w.pick(name, strings.ToUpper(name[:1])+name[1:])
}

// expand writes the shape "3-2-4" as "###-##-####".
func expand(shape string) string {
	var b strings.Builder
	for shape != "" {
		n := span(shape, func(c byte) bool { return trigger[c] == digit }, len(shape))
		b.WriteString(strings.Repeat("#", modulo([]byte(shape[:n]), 100)))
		if shape = shape[n:]; shape != "" {
			b.WriteByte(shape[0])
			shape = shape[1:]
		}
	}
	return b.String()
}

func (w writer) phone() string {
	return w.pick(w.fill("+49 %## #######"), w.fill("+1 (%##) %##-####"), w.fill("+44 20 %### ####"), w.fill("+33 % ## ## ## ##"), w.fill("0049 %## #######"),
		w.fill("Tel. 0%# #######"), w.fill("phone: %##-%##-####"), w.fill("+91 %#### #####"), w.fill("mobile 07### ######"), w.fill("+86 1## #### ####"),
		w.fill("Handy 017% #######"), w.fill("teléfono 6## ## ## ##"), w.fill("+41 %# ### ## ##"))
}

func (w writer) email() string {
	return w.pick("ada", "b.lovelace", "j-smith+x", "info", w.fill("user###")) + "@" + w.pick("example.org", "mail.example.co.uk", "firma.example", "xn--mller-kva.de")
}

func (w writer) birthDate() string {
	day, month := fmt.Sprintf("%02d", 1+w.IntN(28)), fmt.Sprintf("%02d", 1+w.IntN(12))
	date := w.pick(day+"."+month+w.fill(".19##"), month+"/"+day+w.fill("/19##"), w.fill("19##-")+month+"-"+day, day+w.pick(" May ", " March ", ". Mai ")+w.fill("19##"))
	return w.pick("born ", "DOB: ", "date of birth ", "geb. ", "geboren am ", "née le ", "birthday: ") + date
}

func (w writer) ip() string {
	v6 := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(w.IntN(256)), byte(w.IntN(256)), 15: byte(1 + w.IntN(255))}).String()
	v4 := fmt.Sprintf("%d.%d.%d.%d", 1+w.IntN(126), w.IntN(256), w.IntN(256), 1+w.IntN(254))
	return w.pick(v4, "10."+v4[strings.IndexByte(v4, '.')+1:], v6, "http://"+v4+":8080/")
}

func (w writer) mac() string {
	return w.pick(w.fill("0&:&&:&&:&&:%&:&&"), w.fill("0&-&&-&&-&&-%&-&&"), w.fill("&&&&.%&&&.&&&&"))
}

func (w writer) wallet() string {
	return w.pick("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", w.fill("0x%&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&"))
}

func (w writer) token() string {
	const secret = "###@#@@#@###@@#@#@##@#@@#@###@@#@#@##"
	return w.pick("AK"+"IA"+w.fill("@#@@#@@@#@@@#@@#"), "gh"+"p_"+w.fill(secret)[:36], "sk-"+"ant-"+w.fill(secret), "xo"+"xb-"+w.fill(secret), "sk_"+"live_"+w.fill(secret)[:24])
}

func (w writer) record() string {
	return w.pick("MRN ", "Patient ID: ", "medical record number ", "Fallnummer ", "chart no. ") + w.pick(w.fill("%######"), w.fill("PX-%#####"), w.fill("%###-##-##"))
}

func (w writer) positives() map[Kind]func() string {
	return map[Kind]func() string{
		Card: w.card, IBAN: w.iban, Email: w.email, NationalID: w.national, Phone: w.phone, BirthDate: w.birthDate, IP: w.ip, MAC: w.mac,
		Wallet: w.wallet, APIToken: w.token, MedicalRecord: w.record,
		PrivateKey: func() string {
			return pem(w.pick("RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"))
		},
	}
}

// negatives look like the kind and are not.
func (w writer) negatives() map[Kind]func() string {
	number := func() string {
		return w.pick(w.fill("order %###########"), w.fill("invoice 2024-%##-####"), w.fill("build 1.%#.##.4"), w.fill("1,%##,###.##"), w.fill("part %###-##-##"),
			w.fill("17########"), w.fill("17###########"), w.fill("room %## #### seats"), w.fill("0.%###########"), w.fill("ISBN 978-%-##-######-#"), w.fill("page %##-%##"),
			w.fill("2024-0%-1#T1#:##:##Z"), w.fill("score 1%:%#"), w.fill("#%######"), w.fill("serial @@%######"), w.fill("ticket @@@-%###"), w.fill("[%###, ##, ####, ###]"))
	}
	same := func(pattern string, valid func(string) bool) func() string {
		return func() string { return w.until(pattern, func(n string) bool { return !valid(n) }) }
	}
	return map[Kind]func() string{
		Card: same("4### #### #### ####", func(n string) bool { return isCard(onlyDigits(n)) }),
		IBAN: func() string { return w.fill("DE%# #### #### #### #### ##") },
		Email: func() string {
			return w.pick("git@host:x/y", "@mention", "a@b", "logo@2x.png", w.fill("v1.#@sha256"), "user@localhost", "unit@1.service")
		},
		NationalID: number, BirthDate: func() string {
			return w.pick("meeting on ", "invoice of ", "released ", "valid until ") + w.fill("1#.0%.20##")
		},
		Phone: number, MedicalRecord: number,
		IP: func() string {
			return w.pick(w.fill("version 1.%#.##.4"), "127.0.0.1", "255.255.255.0", w.fill("section 4.%.#.#"), w.fill("1.%#.##"), w.fill("v%.#.#.#"))
		},
		MAC: func() string {
			return w.pick(w.fill("1#:%#:##"), w.fill("&&:&&:&&"), w.fill("&&&&&&&&&&&&"), w.fill("2024-0%-1#-1#-##"), "00:00:00:00:00:00")
		},
		Wallet: func() string {
			return w.pick(w.fill("1@#@@##@@@#@@#@@##@@@#@@#@@#@#@@@#"), w.fill("&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&&"), w.fill("0x&&&&&&&&"))
		},
		APIToken: func() string {
			return w.pick(w.fill("sk-@@@@"), "AKIAXXXXXXXXXXXXXXXX", w.fill("ghp_###"), w.fill("&&&&&&&&-&&&&-4&&&-8&&&-&&&&&&&&&&&&"))
		},
		PrivateKey: func() string {
			return w.pick(pem("PUBLIC KEY"), pem("CERTIFICATE"), "-----BEGIN PRIVATE KEY----- goes here")
		},
	}
}

// TestPrecisionAndRecall prints the table of docs/benchmarks.md.
func TestPrecisionAndRecall(t *testing.T) {
	w := writer{rand.New(rand.NewPCG(corpusSeed, 0))}
	positives, negatives := w.positives(), w.negatives()
	t.Logf("| kind | recall | false alarms | precision |")
	for _, kind := range All() {
		var hit, alarm int
		for range corpusSize {
			text := w.inText(positives[kind]())
			if slices.Contains(Kinds(Scan(text)), kind) {
				hit++
			} else if hit < corpusSize && testing.Verbose() {
				t.Logf("missed %s: %q", kind, text)
			}
			text = w.inText(negatives[kind]())
			if slices.Contains(Kinds(Scan(text)), kind) {
				alarm++
				if testing.Verbose() {
					t.Logf("false %s: %q", kind, text)
				}
			}
		}
		recall, precision := float64(hit)/corpusSize, float64(hit)/float64(max(1, hit+alarm))
		t.Logf("| `%s` | %.1f %% | %d of %d | %.1f %% |", kind, 100*recall, alarm, corpusSize, 100*precision)
		if recall < 0.98 || precision < 0.95 {
			t.Errorf("%s: got recall %.3f and precision %.3f, want at least 0.98 and 0.95", kind, recall, precision)
		}
	}
}
