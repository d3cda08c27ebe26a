package detect

import (
	"crypto/sha256"
	"math/big"
	"strings"

	"golang.org/x/crypto/sha3"
)

const (
	base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	bech32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
)

// walletStart marks what an address begins with. Read only.
var walletStart = func() (t [256]bool) {
	for _, c := range []byte("013LMDTbBla") {
		t[c] = true
	}
	return t
}()

// minWallet is the length of the shortest address in bytes.
const minWallet = 26

// wallet looks for the address of a crypto wallet in the word of letters and
// digits that begins at i, and answers where it ends.
func (s *scan) wallet(i int) int {
	if i > 0 && isWord(s.text[i-1]) {
		return 0
	}
	n := span(s.text[i:], isAlnum, 121)
	if n < minWallet || n > 120 {
		return 0
	}
	word := s.text[i : i+n]
	switch {
	case n == 42 && word[0] == '0' && word[1] == 'x':
		if !ethereum(word[2:]) {
			return 0
		}
	case n <= 35 && strings.IndexByte("13LMDT", word[0]) >= 0:
		if !base58Check(word) {
			return 0
		}
	case strings.HasPrefix(word, "bc1"), strings.HasPrefix(word, "BC1"), strings.HasPrefix(word, "ltc1"), strings.HasPrefix(word, "addr1"):
		if !bech32Check(word) {
			return 0
		}
	default:
		return 0
	}
	s.add(Wallet, i, i+n)
	return i + n
}

// base58Check: an address of 21 bytes with the first four of its double SHA-256.
func base58Check(word string) bool {
	sum, radix := new(big.Int), big.NewInt(58)
	for _, c := range []byte(word) {
		v := strings.IndexByte(base58, c)
		if v < 0 {
			return false
		}
		sum.Add(sum.Mul(sum, radix), big.NewInt(int64(v)))
	}
	if sum.BitLen() > 25*8 {
		return false
	}
	raw := sum.FillBytes(make([]byte, 25))
	once := sha256.Sum256(raw[:21])
	twice := sha256.Sum256(once[:])
	return string(twice[:4]) == string(raw[21:])
}

// bech32Check is BIP 173 and, with the other constant, BIP 350.
func bech32Check(word string) bool {
	lower := strings.ToLower(word)
	if lower != word && strings.ToUpper(word) != word {
		return false
	}
	cut := strings.LastIndexByte(lower, '1')
	checksum := uint32(1)
	add := func(v byte) {
		top := checksum >> 25
		checksum = checksum&0x1ffffff<<5 ^ uint32(v)
		for k, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>k&1 == 1 {
				checksum ^= g
			}
		}
	}
	for _, c := range []byte(lower[:cut]) {
		add(c >> 5)
	}
	add(0)
	for _, c := range []byte(lower[:cut]) {
		add(c & 31)
	}
	for _, c := range []byte(lower[cut+1:]) {
		v := strings.IndexByte(bech32, c)
		if v < 0 {
			return false
		}
		add(byte(v))
	}
	return checksum == 1 || checksum == 0x2bc830a3
}

// ethereum: forty hexadecimal digits, in one case or with the checksum of EIP-55 in their case.
func ethereum(digits string) bool {
	for _, c := range []byte(digits) {
		if !isHex(c) {
			return false
		}
	}
	lower := strings.ToLower(digits)
	if digits == lower || digits == strings.ToUpper(digits) {
		return entropy(lower) >= minEntropy
	}
	h := sha3.NewLegacyKeccak256()
	h.Write([]byte(lower))
	hash := h.Sum(nil)
	for k, c := range []byte(digits) {
		if trigger[c] == letter && (c < 'a') != (hash[k/2]>>(4*(1-k%2))&8 != 0) {
			return false
		}
	}
	return true
}
