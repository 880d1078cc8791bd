//! Cleans text from outside for errors and logs: bounded, without control characters, without secrets.

use reqwest::Url;

/// Maximum length of foreign text in an error, in characters: enough for the message of a registry, too little to flood a
/// log or an Event.
const MAX_FOREIGN: usize = 300;

/// Replaces control and invisible characters by spaces, and cuts the text to [`MAX_FOREIGN`] characters.
pub(crate) fn clean(text: &str) -> String {
    let mut shown: String = text
        .trim()
        .chars()
        .map(|c| if is_printable(c) { c } else { ' ' })
        .take(MAX_FOREIGN)
        .collect();
    if text.trim().chars().nth(MAX_FOREIGN).is_some() {
        shown.push('…');
    }
    shown
}

/// Returns whether a character is visible in a line. Control characters are not, and neither are those without width or that
/// change the direction of the text (Unicode Technical Report 36, section 2.5).
#[must_use]
pub fn is_printable(c: char) -> bool {
    let is_format = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_format
}

/// Returns a URL without user info, query and fragment, which contain the secrets of signed downloads and upload sessions.
/// It is cleaned like all foreign text.
pub(crate) fn public_url(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    clean(&format!("{}://{host}{port}{}", url.scheme(), url.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaned_text_is_bounded_and_printable() {
        assert_eq!(clean(" a\u{1b}[31m\nb "), "a [31m b");
        assert_eq!(
            clean("a\u{202e}b\u{200b}c\u{2066}d\u{feff}e\u{2028}f"),
            "a b c d e f"
        );
        assert_eq!(clean("日本 – é"), "日本 – é");
        assert_eq!(clean(&"é".repeat(400)).chars().count(), MAX_FOREIGN + 1);
    }

    #[test]
    fn addresses_are_bounded_and_printable_too() {
        let url = Url::parse(&format!(
            "https://a.example/\n\u{1b}[31m{}",
            "x".repeat(9000)
        ));
        let shown = public_url(&url.unwrap());
        assert_eq!(shown.chars().count(), MAX_FOREIGN + 1);
        assert!(shown.chars().all(is_printable), "{shown}");
    }

    #[test]
    fn urls_lose_what_may_be_secret() {
        let url = Url::parse("https://u:p@cdn.example:8443/a/b?X-Signature=s#f").unwrap();
        assert_eq!(public_url(&url), "https://cdn.example:8443/a/b");
    }
}
