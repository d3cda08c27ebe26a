package detect

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prose is n bytes of running text with the punctuation, numbers and code that prompts have.
func prose(n int) string {
	words := strings.Fields("the service answered after some time and a queue of requests was waiting for its engine " +
		"because Every sequence shares one cache; error 503 at 12:04:55, commit 9f2c41d, version 1.24.7 - see https://example.org/a/b?c=1 " +
		"func main() { return x[i] * 0.5 } (sum of 1,204.50 EUR) naïve façade état")
	rng := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[rng.IntN(len(words))])
		b.WriteByte(" \n    "[rng.IntN(6)])
	}
	return b.String()
}

func measure(b *testing.B, text string, scan func()) {
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	start, n := cpuTime(b), 0
	for b.Loop() {
		scan()
		n++
	}
	// Wall time says little on a machine with neighbours; this rate holds there too.
	b.ReportMetric(float64(len(text))*float64(n)/1e6/(cpuTime(b)-start).Seconds(), "MB/cpu-s")
}

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkScan(b *testing.B) {
	texts := map[string]string{
		"prose":       prose(1 << 20),
		"german":      strings.Repeat("Die Prüfung der Anfragen erfolgt über mehrere Stufen, größtenteils automatisch. ", 13000),
		"typographic": strings.Repeat("It’s “fine” — the number\u00a0is 12, isn’t it? And so on for a while. ", 14000),
		"base64":      strings.Repeat("iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4", 16000),
		"numbers":     strings.Repeat("0.1234567 4 12 2048 31.5 4999 5512 77 ", 27000),
		"chinese":     strings.Repeat("这是一个用于测试检测器速度的句子，", 20000),
	}
	for name, text := range texts {
		b.Run(name, func(b *testing.B) { measure(b, text, func() { Scan(text) }) })
	}
}

func BenchmarkJSON(b *testing.B) {
	content, err := json.Marshal(prose(32 << 10))
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(fmt.Sprintf(`{"model":"mote","stream":true,"messages":[{"role":"system","content":"You help."},{"role":"user","content":%s}]}`, content))
	measure(b, string(body), func() {
		if _, _, err := JSON(body); err != nil {
			b.Fatal(err)
		}
	})
}
