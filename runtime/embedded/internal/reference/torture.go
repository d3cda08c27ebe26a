package reference

import "strings"

// Torture is text in many scripts and of many shapes on which tokenizers part.
func Torture() []string {
	return []string{
		"", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\n \n", "a", " a", "a ", "  a  b  ",
		"Hello, world!", "hello world", "What is the capital of France?", "The capital of France is Paris.",
		"I'm you're he'll they've SHE'S WE'RE don't 'tis 'S x'y' rock'n'roll ''", "It\u2019s a caf\u00e9, na\u00efve r\u00e9sum\u00e9.", "'\u017f 'Ll 'vE",
		"1 12 123 1234 12345 1234567 3.14159 1,000,000 0x1F 1e-9", "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969\u096a \u00bd \u2167 \u00b2\u00b3", "abc123def456", "12 34  56   78",
		"func main() {\n\tfmt.Println(\"hi\")\n}\n", "if x == 1:\n    return  y  \n\n\n    z", "a\n b\n  c\n\td", "  leading", "trailing   ", "a\r\nb\r\n\r\nc",
		"{\"key\": [1, 2, {\"a\": null}], \"b\":\"\\u00e9\"}", "<html><body class='x'>&amp;</body></html>", "https://example.org/a/b?c=d&e=f#g", "me@example.org", "$100 + 20% = ~#@!^*|\\/", "...!!!???---___===", "a_b-c.d/e\\f", "^~|<>=+$`", "C++ C# F# .NET",
		"Zażółć gęślą jaźń. Příliš žluťoučký kůň.", "Ελληνικά: γειά σου Κόσμε", "Русский: привет, мир! Съешь же ещё этих мягких французских булок", "Українська: ґанок",
		"日本語のテキスト、カタカナ、ひらがな。", "中文字符測試，简体与繁體。", "한국어 텍스트입니다. 안녕하세요", "ไทยไม่มีเว้นวรรค", "हिन्दी में पाठ: नमस्ते दुनिया", "বাংলা লেখা", "தமிழ் உரை", "עברית טקסט שלום", "العربية: مرحبا بالعالم", "فارسی: سلام دنیا", "ქართული ტექსტი", "Հայերեն", "አማርኛ", "Tiếng Việt: xin chào thế giới",
		"😀😃 👨‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️", "e\u0301 n\u0303 a\u0308\u0323", "\u200b\u200d\ufeff\u00ad", "a\u00a0b\u2003c\u3000d\u2028e\u0085f", "\u0001\u0002\u007f\u0080", "\U0001F600\U00020000\U0010FFFF", "ﬁ ﬂ Ⅷ ㎏ ①②③", "\u1680 \u180e\u205f",
		"<|im_start|>user\nhi<|im_end|>\n", "<|im_start|", "a<|im_end|>b", "<|im_end|><|im_end|>", " <|im_start|> x", "<s>x</s>", "<unk>", "<0x41>", "\u2581\u2581x \u2581", "[INST] x [/INST]", "<tool>call</tool> <tool>",
		strings.Repeat("ab", 300), strings.Repeat(" ", 100) + "x", strings.Repeat("\n", 50), strings.Repeat("日", 64), strings.Repeat("!", 70), "x" + strings.Repeat(" \n", 20) + "y", strings.Repeat("9", 40), strings.Repeat("aaaaa ", 20),
	}
}
