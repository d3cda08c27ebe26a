package detect

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
)

// vendor is a credential format: what stands before the secret, and the secret.
type vendor struct {
	prefix   string
	alphabet func(byte) bool
	min, max int // length of the secret; of one without a fixed length more than max may follow
	kind     Kind
}

// vendors lists the formats, longer prefixes before those they begin with. Read only.
var vendors = []vendor{
	{"AKIA", isBase32, 16, 16, APIToken}, // AWS access key ids
	{"ASIA", isBase32, 16, 16, APIToken},
	{"ABIA", isBase32, 16, 16, APIToken},
	{"ACCA", isBase32, 16, 16, APIToken},
	{"AGE-SECRET-KEY-1", isAlnum, 58, 58, PrivateKey},
	{"AIza", isURLSafe, 35, 35, APIToken}, // Google
	{"GOCSPX-", isURLSafe, 28, 28, APIToken},
	{"SG.", isDotted, 60, 80, APIToken}, // SendGrid
	{"dop_v1_", isAlnum, 64, 64, APIToken},
	{"ghp_", isAlnum, 36, 255, APIToken}, // GitHub
	{"gho_", isAlnum, 36, 255, APIToken},
	{"ghu_", isAlnum, 36, 255, APIToken},
	{"ghs_", isAlnum, 36, 255, APIToken},
	{"ghr_", isAlnum, 36, 255, APIToken},
	{"github_pat_", isURLSafe, 50, 255, APIToken},
	{"glpat-", isURLSafe, 20, 255, APIToken}, // GitLab
	{"hf_", isAlnum, 30, 64, APIToken},       // Hugging Face
	{"npm_", isAlnum, 36, 36, APIToken},
	{"nvapi-", isURLSafe, 40, 128, APIToken}, // NVIDIA
	{"pypi-AgE", isURLSafe, 50, 512, APIToken},
	{"rk_live_", isAlnum, 16, 255, APIToken}, // Stripe
	{"rk_test_", isAlnum, 16, 255, APIToken},
	{"sk-ant-", isURLSafe, 24, 255, APIToken},  // Anthropic
	{"sk-proj-", isURLSafe, 24, 255, APIToken}, // OpenAI
	{"sk-svcacct-", isURLSafe, 24, 255, APIToken},
	{"sk-admin-", isURLSafe, 24, 255, APIToken},
	{"sk-or-v1-", isAlnum, 32, 255, APIToken},
	{"sk-", isAlnum, 32, 255, APIToken},
	{"sk_live_", isAlnum, 16, 255, APIToken},
	{"sk_test_", isAlnum, 16, 255, APIToken},
	{"whsec_", isAlnum, 24, 255, APIToken},
	{"xapp-", isURLSafe, 30, 255, APIToken}, // Slack
	{"xoxa-", isURLSafe, 20, 255, APIToken},
	{"xoxb-", isURLSafe, 20, 255, APIToken},
	{"xoxe.", isDotted, 20, 255, APIToken},
	{"xoxp-", isURLSafe, 20, 255, APIToken},
	{"xoxr-", isURLSafe, 20, 255, APIToken},
	{"xoxs-", isURLSafe, 20, 255, APIToken},
	{"ya29.", isURLSafe, 30, 512, APIToken}, // Google OAuth
}

// vendorsBy is vendors by their first letter. Read only.
var vendorsBy = func() (t [256][]vendor) {
	for _, v := range vendors {
		t[v.prefix[0]] = append(t[v.prefix[0]], v)
	}
	return t
}()

// contexts are names that say that the next word is an AWS secret key, which has no prefix of its own.
var contexts = []string{"aws_secret_access_key", "secret_access_key", "secretaccesskey", "awssecretaccesskey", "aws_secret_key"}

// prefixPair holds, for the first letter of vendors, of contexts (in either case)
// and of a JWT, a bit for each second letter: most words differ in one of them. Read only.
var prefixPair = func() (t [256]uint32) {
	add := func(first, second byte) { t[first] |= 1 << (second & 31) }
	add('e', 'y')
	for _, v := range vendors {
		add(v.prefix[0], v.prefix[1])
	}
	for _, c := range contexts {
		add(c[0], c[1])
		add(upper(c[0]), c[1])
	}
	return t
}()

// mayBeToken says whether a word that begins with the two bytes may be a credential.
func mayBeToken(first, second byte) bool { return prefixPair[first]>>(second&31)&1 != 0 }

// minEntropy is in bits a character. It refuses the xxxx and 0000 of examples; 16
// random letters and digits have about 3.8.
const minEntropy = 2.5

// token looks for a credential in the word that begins at i.
func (s *scan) token(i int) {
	rest := s.text[i:]
	if len(rest) < minText {
		return
	}
	if rest[:3] == "eyJ" {
		s.jwt(i)
		return
	}
	if s.awsSecret(i) {
		return
	}
	for k := range vendorsBy[rest[0]] {
		v := &vendorsBy[rest[0]][k]
		if rest[1] != v.prefix[1] || !strings.HasPrefix(rest, v.prefix) { // most words differ in their second letter
			continue
		}
		secret := rest[len(v.prefix):]
		n := span(secret, v.alphabet, v.max+1)
		if fits := n <= v.max || v.min < v.max; n >= v.min && fits && entropy(secret[:n]) >= minEntropy {
			s.add(v.kind, i, i+len(v.prefix)+n)
		}
		return
	}
}

// awsSecret looks for a name of contexts at i with 40 characters of base64 after it.
func (s *scan) awsSecret(i int) bool {
	rest := s.text[i:]
	if c := rest[2] | 0x20; c != 's' && c != 'c' {
		return false
	}
	k := slices.IndexFunc(contexts, func(c string) bool { return len(rest) > len(c) && strings.EqualFold(rest[:len(c)], c) })
	if k < 0 {
		return false
	}
	from := len(contexts[k])
	from += span(rest[from:], func(c byte) bool { return strings.IndexByte("\"'`=:>, \t\\", c) >= 0 }, 12)
	const length = 40
	if span(rest[from:], isBase64, length+1) != length || entropy(rest[from:from+length]) < minEntropy {
		return false
	}
	s.add(APIToken, i+from, i+from+length)
	return true
}

// jwt looks for a signed or unsigned token (RFC 7519) whose header, at i, decodes and names an algorithm.
func (s *scan) jwt(i int) {
	if i > 0 && isURLSafe(s.text[i-1]) {
		return // inside a longer word, whose every "eyJ" would be followed to its end again
	}
	rest := s.text[i:]
	header := span(rest, isURLSafe, 2048)
	if header+1 >= len(rest) || rest[header] != '.' {
		return
	}
	payload := span(rest[header+1:], isURLSafe, 1<<16)
	end := header + 1 + payload
	if payload < 8 || end >= len(rest) || rest[end] != '.' {
		return
	}
	decoded, err := base64.RawURLEncoding.DecodeString(rest[:header])
	if err != nil || !strings.Contains(string(decoded), `"alg"`) {
		return
	}
	end += 1 + span(rest[end+1:], isURLSafe, 1<<13)
	s.add(APIToken, i, i+end)
}

// armourDashes is the least that begins armour: PEM has five, SSH2 four and a space.
const armourDashes = 4

// Bounds of a private key: material in lines of at least keyLine characters, keyMaterial in all.
const (
	keyLine     = 16
	keyMaterial = 48
	maxKey      = 64 << 10
)

// privateKey looks for armour of a private key whose dashes are [i,end), with key material after it.
func (s *scan) privateKey(i, end int) {
	window := s.text[end:min(len(s.text), end+maxKey)]
	label, ok := strings.CutPrefix(strings.TrimPrefix(window, " "), "BEGIN ")
	if !ok {
		return
	}
	n := span(label, isLabel, 64)
	if !strings.Contains(label[:n], "PRIVATE KEY") || !strings.HasPrefix(label[n:], "----") {
		return
	}
	body := strings.TrimLeft(label[n:], "-")
	if stop, ok := material(body); ok {
		s.add(PrivateKey, i, end+len(window)-len(body)+stop)
	}
}

// material measures the key after its armour: up to and with the end armour, or
// to the last line of base64 where that is missing. ok says that there is enough.
func material(body string) (stop int, ok bool) {
	total, i := 0, 0
	for i < len(body) && !strings.HasPrefix(body[i:], "----") {
		n := span(body[i:], isBase64, len(body))
		if n >= keyLine {
			total += n
			stop = i + n
		}
		i += max(n, 1)
	}
	if total < keyMaterial {
		return 0, false
	}
	if end := strings.Index(body[stop:], "END "); i < len(body) && end >= 0 {
		stop += end
		stop += span(body[stop:], isLabel, 68)
		stop += span(body[stop:], func(c byte) bool { return c == '-' }, 5)
	}
	return stop, true
}

// span counts the bytes of the alphabet that s begins with, up to limit.
func span(s string, alphabet func(byte) bool, limit int) int {
	n := 0
	for n < len(s) && n < limit && alphabet(s[n]) {
		n++
	}
	return n
}

func isBase32(c byte) bool  { return 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' }
func isURLSafe(c byte) bool { return isAlnum(c) || c == '-' || c == '_' }
func isDotted(c byte) bool  { return isURLSafe(c) || c == '.' }
func isLabel(c byte) bool   { return c == ' ' || isBase32(c) }
func isBase64(c byte) bool  { return isAlnum(c) || c == '+' || c == '/' || c == '=' }

// entropy is Shannon's, of the characters of s, in bits a character.
func entropy(s string) float64 {
	var counts [256]int
	for i := range len(s) {
		counts[s[i]]++
	}
	sum := 0.0
	for _, c := range counts {
		if c > 0 {
			p := float64(c) / float64(len(s))
			sum -= p * math.Log2(p)
		}
	}
	return sum
}
