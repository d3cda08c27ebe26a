package chat

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// expressions have the answers of Jinja2 3.1 itself, with Transformers' settings.
var expressions = []struct{ source, want string }{
	{`{{ (m.role if m.role == 'user' else 'other') + '!' }}`, "user!"},
	{`{{ ('x' if false) ~ '|' }}`, "|"},
	{`{{ 'a' if false else 'b' if false else 'c' }}`, "c"},
	{`{{ [1, 2, 3][1] }} {{ [1,2,3][-1] }} {{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abcdef'[1:3] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[::-1] }}`, "2 3 a c bc abcd fedcba"},
	{`{{ m.content.split(' ')[-1] }} {{ 'a,b,c'.split(',') | join('+') }} {{ 'a b c'.split() | length }}`, "you a+b+c 3"},
	{`{{ m.missing is defined }} {{ m.role is string }} {{ m is mapping }} {{ messages is sequence }} {{ messages is iterable }}`, "False True True True True"},
	{`{{ not true }} {{ true and 'yes' or 'no' }} {{ 'user' in ['user', 'x'] }} {{ 'z' not in 'abc' }} {{ 1 == 1.0 }}`, "False yes True True True"},
	{`{{ 7 // 2 }} {{ 7 % 3 }} {{ 7 / 2 }} {{ 1 + 2 * 3 }} {{ -1 }} {{ 'ab' * 2 }}`, "3 1 3.5 7 -1 abab"},
	{`{{ '%s-%s' | format('a', 'b') }} {{ 'x' | default('y') }} {{ missing | default('y') }} {{ '' | default('z', true) }}`, "a-b x y z"},
	{`{{ (messages | last).role }} {{ messages | length }}`, "user 1"},
	{`{{ 'Hello World' | lower }} {{ 'hello' | upper }} {{ 'hello world' | title }} {{ ' x ' | trim }}| {{ 'hello' | capitalize }}`, "hello world HELLO Hello World x| Hello"},
	{`{{ 'abc'.upper() }} {{ 'abc'.startswith('ab') }} {{ 'a-b'.replace('-', '+') }} {{ '  x'.lstrip() }} {{ 'xxaxx'.strip('x') }} {{ 'a'.isdigit() }}`, "ABC True a+b x a False"},
	{`{% set ns = namespace(n=0) %}{% for x in [1, 2, 3] if x != 2 %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}`, "4"},
	{`{% for x in [] %}x{% else %}empty{% endfor %} {% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}`, "empty b1a2"},
	{`{% set block %}inside {{ m.role }}{% endset %}{{ block | upper }}`, "INSIDE USER"},
	{`{% macro f(a, b=2) %}{{ a }}:{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(a=5, b='q') }}`, "1:2 1:3 5:q"},
	{`{{ {'a': (1 if true else 2), 'b': [3 if false else 4]} | tojson }} {{ "it's" | tojson }} {{ {'x': 1}['x'] }} {{ {'x': 1}.get('y', 'dflt') }}`, "{\"a\": 1, \"b\": [4]} \"it's\" 1 dflt"},
	{`{% for x in range(1, 6, 2) %}{{ x }}{% if x == 3 %}{% break %}{% endif %}{% endfor %} {{ range(3) | list | length }}`, "13 3"},
	{`{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}`, "hello there you"},
	{`{% if m.role == 'user' and (m.content is string or m.content is mapping) %}ok{% elif true %}no{% endif %} {{ 'a' ~ 1 ~ true ~ 2.0 }}`, "ok a1True2.0"},
	{`{% filter upper %}loud{% endfilter %} {{ [3, 1, 2] | sort | join(',') }} {{ ['a', 'b', 'a'] | unique | join }} {{ [1, 2, 3] | reverse | list | join }}`, "LOUD 1,2,3 ab 321"},
	{`{{ "tab\there" }} {{ 'quote\'s' }} {{ "nl\\n" }} {{ 1.5 }} {{ 100000000 }} {{ 1e3 }} {{ true }}`, "tab\there quote's nl\\n 1.5 100000000 1000.0 True"},
	{` {%- raw %} {{ not x if y }} {% endraw %}|{% set a, b = [8, 9] %}{{ a }}{{ b }}|{{ '12' | int + 1 }} {{ 3.7 | int }} {{ 3 | string + 'x' }}`, " {{ not x if y }} |89|13 3 3x"},
	{`{{ (messages[-1].content if messages else '') | trim }} {{ 'y' if (m.content | length) > 3 and not m.tool_calls else 'n' }}`, "hello there you y"},
	{` {%- if messages[0].role in ['system', 'user'] %} in{% endif %}{{ loop is defined }}{{ m['role'] == "user" }}{{ [1, [2, 3]] }} {{ {'k': 'v'} }}`, " inFalseTrue[1, [2, 3]] {'k': 'v'}"},
	{`{{ 'x' | safe }}{{ "<&>" | e }}{{ [{'n': 1}, {'n': 2}] | map(attribute='n') | sum }} {{ [1,2,3] | max }} {{ 'a b' | replace(' ', '_') }} {{ 'abc' | list | join('.') }}`, "x&lt;&amp;&gt;3 3 a_b a.b.c"},
}

func TestExpressionsMeanWhatTheyMeanInJinja(t *testing.T) {
	for _, c := range expressions {
		tmpl, err := New("{%- set m = messages[0] -%}\n"+c.source, "<s>", "</s>")
		if err != nil {
			t.Errorf("%s: %v", c.source, err)
			continue
		}
		got, err := tmpl.Render([]Message{TextMessage("user", "hello there you")}, nil, true, nil)
		if err != nil || got != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.source, got, err, c.want)
		}
	}
}

func render(t *testing.T, source string, messages ...Message) (string, error) {
	t.Helper()
	tmpl, err := New(source, "<s>", "</s>")
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	tmpl.Now = func() time.Time { return time.Date(2026, 3, 7, 9, 5, 0, 0, time.UTC) }
	return tmpl.Render(messages, nil, true, map[string]any{"enable_thinking": false})
}

func TestClockAndExtraVariablesReachTheTemplate(t *testing.T) {
	got, err := render(t, `{{ strftime_now("%d %b %Y %% %H:%M %q") }} {{ enable_thinking is false }}`, TextMessage("user", "x"))
	if want := "07 Mar 2026 % 09:05 %q True"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestRaisedRefusalIsTyped(t *testing.T) {
	_, err := render(t, `{% if messages[0].content == 'bad' %}{{ raise_exception('no ' + messages[0].content) }}{% endif %}`, TextMessage("user", "bad"))
	var raised *RaisedError
	if !errors.As(err, &raised) || raised.Message != "no bad" {
		t.Errorf("got %v, want a RaisedError saying no bad", err)
	}
}

func TestHostileTemplatesEndInAnError(t *testing.T) {
	for _, source := range []string{
		`{{ 1 % 0 }}`,
		`{% for i in range(1000000000) %}{% endfor %}`,
		`{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}`,
		`{{ messages[0].content.nothing.more }}`,
		`{{ missing() }}`,
		`{{ bothy_right_side(1) }}`,
		`{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}`,
		`{% macro f() -%}{{ g() }}{%- endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}`,
	} {
		if got, err := render(t, source, TextMessage("user", "x")); err == nil {
			t.Errorf("%s: got %q, want an error", source, got)
		}
	}
	for _, source := range []string{"", `{% include '/template' %}`, `{% import '/etc/passwd' as x %}`, `{% extends '/template' %}`, `{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}`, `{% if %}`, `{{ 'open`, `{% for %}`, `{{ (1 }}`, strings.Repeat("x", maxTemplate+1)} {
		if _, err := New(source, "", ""); err == nil {
			t.Errorf("%.40q: got a template, want an error", source)
		} else if len(err.Error()) > 400 {
			t.Errorf("%.40q: the error quotes the template: %d bytes", source, len(err.Error()))
		}
	}
}

func TestTemplatesAreBoundedInTimeAndText(t *testing.T) {
	const word = `{% set s = 'abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz' %}`
	nested := word + strings.Repeat(`{% for x in s %}`, 5) + strings.Repeat(`{% endfor %}`, 5)
	for source, want := range map[string]string{
		nested: "loop bodies",
		`{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}`: "loop bodies",
		`{{ 'a' * 300000000 }}`:                                                                           "text",
		`{% if 'a' * 300000000 == 'b' %}{% endif %}`:                                                      "text",
		`{% set x = ('a' * 10000000) * 10000000 %}`:                                                       "text",
		`{% with x = 'a' * 300000000 %}{% endwith %}`:                                                     "text",
		`{% filter replace('a', 'b' * 300000000) %}a{% endfilter %}`:                                      "text",
		`{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}`: "text",
		`{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`: "text",
		`{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`: "text",
		`{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}`:                                             "text",
		`{% set x = 'a' * 1000000 %}{{ x.replace('a', 'b' * 1000000) }}`:                                  "text",
		`{{ 'a' | center(300000000) }}`:                                                                   "text",
		`{{ 'a'.ljust(300000000) }}`:                                                                      "text",
	} {
		if _, err := render(t, source, TextMessage("user", "x")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want an error about %s", source, err, want)
		}
	}
}

func TestMessagesAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		`{"content":"x"}`:                 "role",
		`{"role":1,"content":"x"}`:        "role",
		`{"role":"user"}`:                 "content",
		`{"role":"user","content":5}`:     "content",
		`{"role":"user","content":["x"]}`: "part",
		`{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}`: "image_url",
		`[]`: "object",
		`{"role":"user","content":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`: "nested",
	} {
		var m Message
		if err := json.Unmarshal([]byte(text), &m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want an error about %s", text, err, want)
		}
	}
}

func TestBlankRemovalAroundTags(t *testing.T) {
	for source, want := range map[string]string{
		"a\n  {% if true %}\n  b\n  {% endif %}\nc": "a\n  b\nc",
		"a {% if true %} b {% endif %} c":           "a  b  c",
		"  {# note #}\n x":                          " x",
		"a\n  {%+ if true %}b{% endif %}":           "a\n  b",
		"{% if true %}\n\nx{% endif %}":             "\nx",
		"a\n  {{ 'b' }}\n":                          "a\n  b",
		"a  {#- note -#}  b":                        "ab",
		"a  {%- if true -%}  b  {%- endif %}":       "ab",
		"{% raw %}\n  {{ x }}{% endraw %}":          "  {{ x }}",
		"{% if true +%}\nx{% endif %}":              "\nx",
	} {
		if got, err := render(t, source, TextMessage("user", "x")); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", source, got, err, want)
		}
	}
}

func TestRewriteLeavesTextAlone(t *testing.T) {
	for _, source := range []string{
		"plain { text } if x else y", "{% raw %}{{ (a if b) }}{% endraw %}", "{{ 'a if b else c' }}",
		"{% for x in y if x.z %}{% endfor %}", "{% if a and (b or c) %}{% endif %}", "{{ {'a': [1, 2]} }}", "{{ f(a=1, b=2 == 3) }}", "{", "{{", "{% set x %}if{% endset %}",
	} {
		if got := rewrite(source); got != source {
			t.Errorf("rewrite(%q) = %q, want it unchanged", source, got)
		}
	}
}

func FuzzNewAndRender(f *testing.F) {
	for _, c := range expressions {
		f.Add(c.source)
	}
	f.Add("{{ (x if y else (z if w)) }}{% set a, b = (1 if c else 2), 3 %}")
	f.Fuzz(func(t *testing.T, source string) {
		if strings.Contains(source, "*") {
			return // it may build text of any length, which the engine child's memory bounds
		}
		tmpl, err := New(source, "<s>", "</s>")
		if err != nil {
			return
		}
		tmpl.Render([]Message{TextMessage("user", "x")}, nil, true, nil)
	})
}

func TestTextSizeAddsUpTheParts(t *testing.T) {
	for raw, want := range map[string]int{
		`{"role":"user","content":"abc\u0041"}`:                                              4,
		`{"role":"user","content":[{"type":"text","text":"ab"},{"type":"text","text":"c"}]}`: 3,
		`{"role":"assistant","content":null}`:                                                0,
	} {
		var m Message
		if err := json.Unmarshal([]byte(raw), &m); err != nil {
			t.Fatal(err)
		}
		if got := m.TextSize(); got != want {
			t.Errorf("%s: got %d bytes, want %d", raw, got, want)
		}
	}
}
