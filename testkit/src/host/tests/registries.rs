//! The OCI callbacks against real registries: texts, trust, credentials, cache and lock.

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Answer, OciCallbacks, Sources};
use crate::image::{Image, media_type};
use crate::registry::{
    Credential, Document, EmbeddedOptions, EmbeddedRegistry, Registry, start_registry,
};
use crate::tls::Tls;

const MINUTE: Duration = Duration::from_mins(1);

fn encrypted(credential: Option<Credential>) -> EmbeddedRegistry {
    let tls = Some(Tls::generate().unwrap());
    EmbeddedRegistry::start(EmbeddedOptions { credential, tls }).unwrap()
}

fn trusting(registry: &EmbeddedRegistry) -> Sources {
    Sources::default().authority(registry.localhost(), registry.ca_pem().unwrap())
}

fn callbacks(sources: Sources) -> OciCallbacks {
    OciCallbacks::new(sources, MINUTE).unwrap()
}

fn error(answer: &Answer) -> &str {
    answer.payload.as_ref().unwrap_err()
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(answer.payload.as_ref().unwrap()).unwrap()
}

/// A manifest as the sidecar answers, with a field that the host's types do not know.
fn answer_manifest(registry: &dyn Registry) -> Document {
    let config = Image::referrer(Image::single(1).root(), "application/x", b"x");
    config
        .push(&registry.client(), "answers", "config")
        .unwrap();
    let content = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_EMPTY,
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2,
            "platform": {"os": "linux", "architecture": "amd64"},
        },
        "layers": [],
        "annotations": {"image-mirror.dev/state": "mirrored"},
        "unknown": "field",
    });
    let document = Document {
        media_type: media_type::OCI_MANIFEST.to_owned(),
        bytes: content.to_string().into(),
    };
    let client = registry.client();
    client.push_manifest("answers", "1", &document).unwrap();
    document
}

#[test]
fn a_manifest_comes_back_as_the_host_understands_it() {
    let registry = encrypted(None);
    let document = answer_manifest(&registry);
    let callbacks = callbacks(trusting(&registry));
    let image = format!("{}/answers:1", registry.localhost());

    let manifest = json(&callbacks.manifest(&image));
    assert_eq!(
        manifest["annotations"]["image-mirror.dev/state"],
        "mirrored"
    );
    assert_eq!(manifest["config"]["size"], 2);
    assert!(manifest.get("unknown").is_none());
    assert!(manifest["config"].get("platform").is_none());

    let digest = json(&callbacks.manifest_digest(&image));
    assert_eq!(digest, json!({"digest": document.digest()}));
}

#[test]
fn an_index_is_a_manifest_too() {
    let registry = encrypted(None);
    Image::index(1)
        .push(&registry.client(), "a/b", "1")
        .unwrap();
    let callbacks = callbacks(trusting(&registry));
    let answer = callbacks.manifest(&format!("{}/a/b:1", registry.localhost()));
    assert_eq!(json(&answer)["manifests"].as_array().unwrap().len(), 3);
}

#[test]
fn a_missing_manifest_is_told_in_the_registrys_words() {
    let registry = encrypted(None);
    let callbacks = callbacks(trusting(&registry));
    let host = registry.localhost();
    let answer = callbacks.manifest(&format!("{host}/a/b:gone"));
    let text = error(&answer);
    let cause = format!(
        "Registry error: url https://{host}/v2/a/b/manifests/gone, \
         envelope: OCI API errors: [OCI API error: the registry says MANIFEST_UNKNOWN]"
    );
    let expected = format!(
        "Callback evaluation failure: Fail to interact with OCI registry: {cause}\n\n\
         Caused by:\n    {cause}"
    );
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let registry = encrypted(None);
    answer_manifest(&registry);
    let before = registry.requests().len();
    let answer =
        callbacks(Sources::default()).manifest(&format!("{}/answers:1", registry.localhost()));
    let text = error(&answer);
    assert!(
        text.contains("error sending request for url (https://"),
        "{text}"
    );
    assert_eq!(registry.requests().len(), before, "no request gets through");
}

#[test]
fn a_ca_that_is_none_is_refused() {
    let sources = Sources::default().authority("localhost:1", "nonsense");
    let error = OciCallbacks::new(sources, MINUTE).err().unwrap();
    assert!(error.to_string().contains("localhost:1"), "{error}");
}

#[test]
fn credentials_are_sent_to_their_registry_only() {
    let registry = encrypted(Some(Credential::new("user", "pass:word")));
    answer_manifest(&registry);
    let host = registry.localhost();
    let image = format!("{host}/answers:1");

    let anonymous = callbacks(trusting(&registry)).manifest(&image);
    assert!(
        error(&anonymous).starts_with(&format!(
            "Callback evaluation failure: Fail to interact with OCI registry: \
             Not authorized: url https://{host}/v2/answers/manifests/1"
        )),
        "{}",
        error(&anonymous)
    );
    let elsewhere = trusting(&registry).credential("localhost", "user", "pass:word");
    assert!(callbacks(elsewhere).manifest(&image).payload.is_err());
    let right = trusting(&registry).credential(&host, "user", "pass:word");
    assert!(callbacks(right).manifest(&image).payload.is_ok());
}

#[test]
fn the_host_asks_the_base_path_first() {
    let registry = encrypted(None);
    answer_manifest(&registry);
    let before = registry.requests().len();
    let callbacks = callbacks(trusting(&registry));
    callbacks.manifest(&format!("{}/answers:1", registry.localhost()));
    let requests = registry.requests().split_off(before);
    let seen: Vec<_> = requests
        .iter()
        .map(|request| (request.method.as_str(), request.path.as_str()))
        .collect();
    assert_eq!(seen, [("GET", "/v2/"), ("GET", "/v2/answers/manifests/1")]);
}

#[test]
fn an_insecure_source_falls_back_to_plain_http() {
    let registry = start_registry().unwrap();
    Image::single(1)
        .push(&registry.client(), "a/b", "1")
        .unwrap();
    let host = registry.localhost();
    let image = format!("{host}/a/b:1");
    assert!(
        callbacks(Sources::default())
            .manifest(&image)
            .payload
            .is_err()
    );
    let callbacks = callbacks(Sources::default().insecure(&host));
    assert!(callbacks.manifest(&image).payload.is_ok());

    let missing = callbacks.manifest(&format!("{host}/a/b:gone"));
    let text = error(&missing);
    assert!(
        text.contains(&format!("url http://{host}/v2/a/b/manifests/gone")),
        "{text}"
    );
}

#[test]
fn an_insecure_source_with_tls_loses_its_own_errors() {
    let registry = encrypted(None);
    answer_manifest(&registry);
    let host = registry.localhost();
    let callbacks = callbacks(Sources::default().insecure(&host));
    let found = callbacks.manifest(&format!("{host}/answers:1"));
    assert!(found.payload.is_ok(), "unverified HTTPS is the second try");

    let missing = callbacks.manifest(&format!("{host}/answers:gone"));
    let text = error(&missing);
    assert!(
        text.contains(&format!("(http://{host}/v2/")),
        "the third try's error counts: {text}"
    );
    assert!(!text.contains("OCI API error"), "{text}");
    let asked = registry.requests();
    let gone = asked.iter().filter(|r| r.path.ends_with("/gone")).count();
    assert_eq!(gone, 1, "only unverified HTTPS got through");
}

#[test]
fn successes_are_cached_by_their_text_and_errors_are_not() {
    let registry = encrypted(None);
    let callbacks = callbacks(trusting(&registry));
    let image = format!("{}/answers:1", registry.localhost());
    assert!(callbacks.manifest(&image).payload.is_err());
    answer_manifest(&registry);

    let first = callbacks.manifest(&image);
    let requests = registry.requests().len();
    let second = callbacks.manifest(&image);
    assert!(!first.cached && second.cached);
    assert_eq!(first.payload, second.payload);
    assert_eq!(registry.requests().len(), requests, "the cache asks nobody");

    let by_ip = image.replace("localhost", "127.0.0.1");
    assert!(
        !callbacks.manifest(&by_ip).cached,
        "another text is another key"
    );
    assert!(
        !callbacks.manifest_digest(&image).cached,
        "operations do not share"
    );
    callbacks.clear_cache();
    assert!(!callbacks.manifest(&image).cached);
}

#[test]
fn the_time_to_live_can_be_set() {
    let registry = encrypted(None);
    answer_manifest(&registry);
    let callbacks = OciCallbacks::new(trusting(&registry), Duration::ZERO).unwrap();
    let image = format!("{}/answers:1", registry.localhost());
    assert!(!callbacks.manifest(&image).cached);
    assert!(!callbacks.manifest(&image).cached);
}

#[test]
fn one_slow_answer_stalls_everybody_else() {
    let registry = encrypted(None);
    answer_manifest(&registry);
    let cached = format!("{}/answers:1", registry.localhost());
    let callbacks = callbacks(trusting(&registry));
    assert!(callbacks.manifest(&cached).payload.is_ok());
    assert!(callbacks.manifest_digest(&cached).payload.is_ok());

    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow_image = format!("{}/slow:1", slow.local_addr().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| callbacks.manifest(&slow_image));
        // The first byte of the handshake proves that the slow call has the lock.
        let (mut connection, _) = slow.accept().unwrap();
        connection.read_exact(&mut [0]).unwrap();

        let (done, finished) = mpsc::channel();
        let (callbacks, cached) = (&callbacks, &cached);
        scope.spawn(move || done.send(callbacks.manifest(cached)));
        let waited = finished.recv_timeout(Duration::from_millis(300));
        assert!(waited.is_err(), "a cached answer has to wait for the lock");
        assert!(
            callbacks.manifest_digest(cached).cached,
            "each operation has its own lock"
        );

        drop((connection, slow));
        assert!(finished.recv().unwrap().cached);
    });
}
