//! What a list on standard input may look like.

use super::*;

fn read(text: &[u8]) -> Result<Vec<(Origin, String)>, String> {
    let mut entries = Vec::new();
    read_lines(text, &mut |origin, text| {
        entries.push((origin, text.to_owned()));
    })
    .map_err(|error| error.to_string())?;
    Ok(entries)
}

#[test]
fn comments_and_blank_lines_count_but_say_nothing() {
    let list = b"\xef\xbb\xbfnginx\r\n\n  # tools\n\tbusybox:1 # small\n#\nghcr.io/a/b:v1";
    let expected = [(1, "nginx"), (4, "busybox:1"), (6, "ghcr.io/a/b:v1")];
    let expected = expected.map(|(line, text)| (Origin::Line(line), text.to_owned()));
    assert_eq!(read(list).unwrap(), expected);
    assert_eq!(read(b"").unwrap(), []);
}

#[rstest::rstest]
#[case::too_long(&[&b"a\n"[..], &[b'x'; 5000]].concat(), "line 2")]
#[case::no_text(b"a\nb\n\xff\n", "line 3")]
#[case::too_many(&b"a\n".repeat(MOST_ENTRIES + 1), "line 100001")]
fn what_is_no_list_is_refused(#[case] list: &[u8], #[case] place: &str) {
    let complaint = read(list).unwrap_err();
    assert!(complaint.contains(place), "{complaint}");
}

#[test]
fn a_line_may_be_as_long_as_the_limit() {
    let line = [&[b'x'; 4095][..], b"\n"].concat();
    assert_eq!(read(&line).unwrap().len(), 1);
}

#[test]
fn duplicates_are_taken_once() {
    let arguments = ["nginx", "docker.io/library/nginx:latest", "nginx:1"].map(str::to_owned);
    assert_eq!(images(&arguments).unwrap().entries.len(), 2);
    let digest = format!("nginx@sha256:{}", "0".repeat(64));
    let tagged = digest.replace('@', ":1@");
    assert_eq!(images(&[digest, tagged]).unwrap().entries.len(), 1);
}

#[rstest::rstest]
#[case("nginx", Some("docker.io/library/nginx"))]
#[case("localhost:5000/a/b", Some("localhost:5000/a/b"))]
#[case("nginx:1", None)]
#[case("localhost:5000", None)]
#[case("localhost:5000/a:1", None)]
#[case("a@sha256:0", None)]
#[case("UPPER", None)]
#[case("", None)]
fn repositories_have_neither_tag_nor_digest(#[case] text: &str, #[case] name: Option<&str>) {
    let parsed = RepositoryName::parse(text)
        .ok()
        .map(|name| name.to_string());
    assert_eq!(parsed.as_deref(), name);
}

#[test]
fn every_mistake_is_counted() {
    let arguments = ["UPPER", "nginx", "a b"].map(str::to_owned);
    let list = images(&arguments).unwrap();
    assert_eq!((list.len(), list.entries.len()), (3, 1));
    let error = list.mistakes.check().unwrap_err().to_string();
    assert!(error.starts_with("2 invalid entries"), "{error}");
}
