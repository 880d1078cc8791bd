//! Which crate a function's code is there for.

/// The standard library's crates, under one name: nobody chooses between them.
const STD: [&str; 4] = ["std", "core", "alloc", "__rustc"];

/// The crate that a function (mangled) counts for, with `_` where the crate's name may have `-`.
///
/// What the standard library makes for a type of another crate, such as its `drop`, counts for that crate.
pub fn of(name: &str) -> String {
    let name = readable(name);
    let mut owner = None;
    for head in heads(&name) {
        if !STD.contains(&head) {
            return head.to_owned();
        }
        owner = Some("std");
    }
    owner.unwrap_or("wasi-libc, exports").to_owned()
}

/// A function's name for people.
pub fn readable(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// The first parts of all paths in a name.
fn heads(name: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    name.match_indices("::").filter_map(move |(end, _)| {
        let before = name.get(..end)?;
        let head = before.rsplit(|c| !is_part(c)).next()?;
        let is_first = !before.strip_suffix(head)?.ends_with("::");
        (is_first && !head.is_empty()).then_some(head)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("serde_json::value::to_value", "serde_json")]
    #[case("core::str::from_utf8", "std")]
    #[case("core::ptr::drop_in_place<serde_json::value::Value>", "serde_json")]
    #[case(
        "<alloc::vec::Vec<mirror_contract::NamespacePattern> as core::ops::drop::Drop>::drop",
        "mirror_contract"
    )]
    #[case("<&str as core::fmt::Debug>::fmt", "std")]
    #[case("_ZN10serde_json5value8to_value17h0123456789abcdefE", "serde_json")]
    #[case("dlmalloc", "wasi-libc, exports")]
    fn each_function_counts_for_one_crate(#[case] name: &str, #[case] owner: &str) {
        assert_eq!(of(name), owner);
    }
}
