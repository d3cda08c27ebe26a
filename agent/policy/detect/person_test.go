package detect

import (
	"slices"
	"strings"
	"testing"
)

// The numbers below are the published examples of the offices that issue them, or of their specifications.
func TestScanFindsPeople(t *testing.T) {
	for _, e := range []example{
		{NationalID, "SSN 219-09-9999", "219-09-9999"},
		{NationalID, "219-09-9999", ""},
		{NationalID, "social security number: 219099999", "219099999"},
		{NationalID, "her SIN is 046 454 286", "046 454 286"},
		{NationalID, "NHS No. 943 476 5919", "943 476 5919"},
		{NationalID, "nhs_number=9434765919", "9434765919"},
		{NationalID, "AB123456C", ""},
		{NationalID, "AB 12 34 56 C", ""},
		{NationalID, "Steuer-ID: 86095742719", "86095742719"},
		{NationalID, "65 929 970 489", ""},
		{NationalID, "15070649C103", ""},
		{NationalID, "255081416802538", ""},
		{NationalID, "2 55 08 14 168 025 38", ""},
		{NationalID, "12345678Z", ""},
		{NationalID, "12345678-z", ""},
		{NationalID, "X1234567L", ""},
		{NationalID, "RSSMRA85T10A562S", ""},
		{NationalID, "bsn 111222333", "111222333"},
		{NationalID, "85.07.30-033.28", ""},
		{NationalID, "85073003328", ""},
		{NationalID, "PESEL 44051401359", "44051401359"},
		{NationalID, "NIF: 123456789", "123456789"},
		{NationalID, "756.9217.0769.85", ""},
		{NationalID, "7569217076985", ""},
		{NationalID, "SVNR 1237010180", "1237010180"},
		{NationalID, "1237 010180", ""},
		{NationalID, "811228-9874", ""},
		{NationalID, "personnummer 198112289874", "198112289874"},
		{NationalID, "131052-308T", ""},
		{NationalID, "131052A308T", ""},
		{NationalID, "01010750160", ""}, // Skatteetaten's test person
		{NationalID, "CPR-nr. 211062-5629", "211062-5629"},
		{NationalID, "736028/5163", ""},
		{NationalID, "CNP: 1800101221144", "1800101221144"},
		{NationalID, "ЕГН: 7523169263", "7523169263"},
		{NationalID, "OIB 94577403194", "94577403194"},
		{NationalID, "TC Kimlik No 10000000146", "10000000146"},
		{NationalID, "529.982.247-25", ""},
		{NationalID, "CPF 52998224725", "52998224725"},
		{NationalID, "Aadhaar 2341 2341 2346", "2341 2341 2346"},
		{NationalID, "ABCPE1234F", ""},
		{NationalID, "個人番号 123456789018", "123456789018"},
		{NationalID, "110105194912310011", ""},
		{NationalID, "11010519491231002X", ""},
		{NationalID, "身份证号码：11010519491231002X。", "11010519491231002X"},
		{NationalID, "820701-2409184", ""},
		{NationalID, "S1234567D", ""},
		{NationalID, "A123456789", ""},
		{NationalID, "A123456(3)", ""},
		{NationalID, "AB987654(3)", ""},
		{NationalID, "TFN 123 456 782", "123 456 782"},
		{NationalID, "Medicare card 2123 45670 1", "2123 45670 1"},
		{NationalID, "8001015009087", ""},
		{NationalID, "ИНН 500100732259", "500100732259"},
		{NationalID, "112-233-445 95", ""},
		{NationalID, "20-12345678-6", ""},
		{NationalID, "12.345.678-5", ""},
		{NationalID, "1234567T", ""},
		{NationalID, "HEGG560427MVZRRL04", ""},
		{Phone, "+49 30 901820", ""},
		{Phone, "+1 (212) 555-0123", ""},
		{Phone, "tel:+12125550123", "+12125550123"},
		{Phone, "0049 30 901820", ""},
		{Phone, "+44 (0) 20 7946 0958", ""},
		{Phone, "(+33) 1 42 68 53 00", "+33) 1 42 68 53 00"},
		{Phone, "call me at 212-555-0123 tomorrow", "212-555-0123"},
		{Phone, "Tel. 030/901820", "030/901820"},
		{Phone, "Handy: 0171 1234567.", "0171 1234567"},
		{Phone, "+٤٩ ٣٠ ٩٠١٨٢٠", ""},
		{IP, "192.168.17.4", ""},
		{IP, "http://10.1.2.3:8080/x", "10.1.2.3"},
		{IP, "from 203.0.113.77.", "203.0.113.77"},
		{IP, "2001:db8::8a2e:370:7334", ""},
		{IP, "[fe80::1ff:fe23:4567:890a]", "fe80::1ff:fe23:4567:890a"},
		{MAC, "00:1a:2B:3c:4d:5e", ""},
		{MAC, "00-1A-2B-3C-4D-5E", ""},
		{MAC, "de:ad:be:ef:00:01", ""},
		{MAC, "001a.2b3c.4d5e", ""},
		{Wallet, "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", ""},
		{Wallet, "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", ""},
		{Wallet, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", ""},
		{Wallet, "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0", ""},
		{Wallet, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", ""},
		{Wallet, "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", ""},
		{BirthDate, "born on 17 May 1980 in Graz", "17 May 1980"},
		{BirthDate, "DOB: 05/17/1980", "05/17/1980"},
		{BirthDate, `"date_of_birth": "1980-05-17"`, "1980-05-17"},
		{BirthDate, "geb. 17.05.1980", "17.05.1980"},
		{BirthDate, "geboren am 17. Mai 1980", "17. Mai 1980"},
		{BirthDate, "née le 3 février 1975", "3 février 1975"},
		{BirthDate, "birthday May 17, 1980", "17, 1980"},
		{BirthDate, "born May 17th, 1980", "17th, 1980"},
		{MedicalRecord, "MRN 00458123", "00458123"},
		{MedicalRecord, "Patient ID: PX-204518", "PX-204518"},
		{MedicalRecord, "medical record number 4458-12-77", "4458-12-77"},
		{MedicalRecord, "Fallnummer 0012345678", "0012345678"},
	} {
		e.check(t)
	}
}

func TestScanLeavesNumbersAlone(t *testing.T) {
	for _, text := range []string{
		"219-00-9999", "000-12-3456", "666-12-3456", // no area, group or serial of these
		"219099999", "046454286", "9434765919", // weak numbers without their names
		"AB123456E", "BG123456A", "12345678A", "X1234567M", "S1234567E", "A123456(4)",
		"85.07.30-033.29", "756.9217.0769.86", "529.982.247-26", "110105194912310031", "811228-9875", "736028/5164",
		"the meeting of 17.05.2024 at 10:30", "2024-05-17T10:30:00Z", "1980-05-17",
		"version 1.24.7.1", "v4.18.0.2", "127.0.0.1", "::1", "0.0.0.0", "255.255.255.0", "1.2.3", "1.2.3.4.5", "300.1.2.3",
		"12:30:45", "10:15", "a::b", "std::string", "16:9", "00:00:00:00:00:00",
		"+1 212", "+999 123456789", "order 2125550123", "1234567890123456", "+5", "3 + 49 30 901820 = x",
		"1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1Beaed", "0x0000000000000000000000000000000000000000",
		"bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5",
		"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "commit 9f2c41d",
		"1.204,50 EUR", "1,204.50", "x = 3.14159265358979", "2^31 = 2147483648", "ISBN 978-3-16-148410-0", "page 12-15", "10.1000/182",
		"1700000000000", "1732389120", "part no 4458-12-77", "case closed in 2024",
	} {
		if found := Scan(text); len(found) > 0 {
			t.Errorf("%q: got %v (%q), want nothing", text, found, text[found[0].Start:found[0].End])
		}
	}
}

func TestAPersonIsFoundInSplitAndDisguisedText(t *testing.T) {
	for _, c := range []struct {
		kind  Kind
		parts []string
	}{
		{NationalID, []string{"SSN 219-", "09-9999"}},
		{Phone, []string{"+49 30 9", "01820"}},
		{IP, []string{"10.1.", "2.3"}},
		{BirthDate, []string{"born on 17 M", "ay 1980"}},
	} {
		if !slices.Contains(Kinds(Parts(c.parts)), c.kind) {
			t.Errorf("%s in %q: got %v", c.kind, c.parts, Parts(c.parts))
		}
	}
	for kind, text := range map[Kind]string{
		NationalID: "SSN 219\u201109\u20119999",
		Phone:      "+49\u00a030\u2009901820",
		IP:         "10.\u200b1.2.3",
	} {
		if !slices.Contains(Kinds(Scan(text)), kind) {
			t.Errorf("%s in %q: got %v", kind, text, Scan(text))
		}
	}
}

func TestAKeySaysWhatItsValueIs(t *testing.T) {
	for body, want := range map[string]Kind{
		`{"ssn":219099999}`: NationalID,
		`{"patient":{"socialSecurityNumber":"219099999"}}`:        NationalID,
		`{"date_of_birth":"1980-05-17"}`:                          BirthDate,
		`{"dateOfBirth":"1980-05-17"}`:                            BirthDate,
		`{"mrn":"00458123"}`:                                      MedicalRecord,
		`{"mrn":45812}`:                                           MedicalRecord,
		`{"phone_numbers":["x","212-555-0123"]}`:                  Phone,
		`{"mobile":2125550123}`:                                   Phone,
		`{"\u0074elefon":"0301234567"}`:                           Phone,
		`{"content":"ask the clerk","tax file number":123456782}`: NationalID,
	} {
		found, _, err := JSON([]byte(body))
		if err != nil || !slices.Contains(Kinds(found), want) {
			t.Errorf("%s: got %v (%v), want %s", body, found, err, want)
		}
	}
	for _, body := range []string{`{"max_tokens":219099999}`, `{"seed":2125550123}`, `{"created":"1980-05-17"}`, `{"mrn":"none"}`} {
		if found, _, err := JSON([]byte(body)); err != nil || len(found) > 0 {
			t.Errorf("%s: got %v (%v), want nothing", body, found, err)
		}
	}
}

func TestEveryKindIsListedOnce(t *testing.T) {
	all := All()
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) || len(all) != 12 {
		t.Errorf("got %v", all)
	}
	for _, k := range all {
		if strings.ToLower(string(k)) != string(k) {
			t.Errorf("got %s, want lower case", k)
		}
	}
}
