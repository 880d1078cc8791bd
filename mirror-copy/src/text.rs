//! Makes text from outside fit to be shown: bounded, without control characters, without secrets.

use reqwest::Url;

/// Longest piece of foreign text shown in an error, in characters: enough for a registry's message,
/// too little to flood a log or an Event.
const MAX_FOREIGN: usize = 300;

/// Foreign text with control and invisible characters as spaces, at most [`MAX_FOREIGN`] characters.
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

/// Returns whether a line with this character shows what it says. Not so with control characters, and with what has no
/// width or turns the direction of the text around it (Unicode Technical Report 36, section 2.5).
#[must_use]
pub fn is_printable(c: char) -> bool {
    let is_format = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_format
}

/// An address without user info, query and fragment: signed download URLs and upload sessions carry
/// their secrets there. Bounded and printable like all foreign text.
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
