from nlp_ssl.data.text.languages import languages

ENGLISH = "The museum opens at nine in the morning and closes late in the evening, also on Sundays."
GERMAN = "Das Museum öffnet um neun Uhr morgens und schließt spät am Abend, auch an Sonntagen."
SWAHILI = "Makumbusho hufunguliwa saa tatu asubuhi na kufungwa jioni sana, hata siku za Jumapili."


def test_shares_follow_the_length_of_texts():
    found = languages([ENGLISH] * 3 + [GERMAN])
    assert list(found) == ["en", "de"]
    assert abs(found["de"] - len(GERMAN) / (3 * len(ENGLISH) + len(GERMAN))) < 1e-12
    assert list(languages([SWAHILI])) == ["sw"]


def test_what_says_too_little_is_passed_over():
    assert languages(["Ja.", "12 34", ""]) == {}
    assert list(languages([ENGLISH] * 99 + [GERMAN])) == ["en"]  # one in a hundred is as likely a mistake


def test_a_long_text_counts_no_more_than_its_beginning():
    found = languages([ENGLISH * 100, GERMAN * 12])
    assert 0.45 < found["de"] < 0.55
