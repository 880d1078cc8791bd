//! Copies between real registries, checked byte for byte by another client than ours.

use crate::support::{copy_app, pair_with, raw, registries};
use mirror_copy::{CopyOptions, Registries, RegistryOptions, Source, TagOrDigest, Target, copy};
use testkit::closure::{self, Closure};
use testkit::image::Image;
use testkit::registry::{Document, EmbeddedOptions, EmbeddedRegistry, Registry, start_registry};
use testkit::scripted::{self, Fake, blob, index, noise, referrer};

/// Debian's registry, which has no referrers API; where it is not installed the embedded one stands in.
fn debian() -> Box<dyn Registry> {
    start_registry().expect("a registry starts")
}

fn embedded() -> Box<dyn Registry> {
    let registry = EmbeddedRegistry::start(EmbeddedOptions::default());
    Box::new(registry.expect("a registry starts"))
}

/// Copies `from/team/app:v1` to `to/copies/app:v1` and reads both, before and after.
async fn copied(from: &dyn Registry, to: &dyn Registry) -> (Closure, Closure) {
    let before = closure::read(&from.address(), "team/app", "v1").await;
    let registries = Registries::new(RegistryOptions {
        insecure_hosts: [from.address(), to.address()].into(),
        ..RegistryOptions::default()
    })
    .unwrap();
    let source = Source {
        registry: registries.get(&from.address()).unwrap(),
        repository: "team/app".into(),
        reference: TagOrDigest::parse("v1"),
    };
    let target = Target {
        registry: registries.get(&to.address()).unwrap(),
        repository: "copies/app".into(),
        tag: Some("v1".into()),
        anchor: None,
    };
    copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    let after = closure::read(&to.address(), "copies/app", "v1").await;
    (before.unwrap(), after.unwrap())
}

#[rstest::rstest]
#[case::index(Image::index(1))]
#[case::single(Image::single(2))]
#[case::docker(Image::docker(3))]
#[case::docker_list(Image::docker_list(4))]
#[case::attested(Image::with_attestations(5))]
#[case::big(Image::with_big_layer(6, 12))]
#[tokio::test]
async fn every_shape_is_the_same_at_both_registries(
    #[case] image: Image,
    #[values(true, false)] to_embedded: bool,
) {
    let from = debian();
    let to = if to_embedded { embedded() } else { debian() };
    image.push(&from.client(), "team/app", "v1").unwrap();
    let (before, after) = copied(from.as_ref(), to.as_ref()).await;
    assert_eq!(before, after);
    // The reader saw all of it.
    assert_eq!(before.manifests.len(), image.manifests().len());
    assert_eq!(before.blobs.len(), image.blobs().count());
}

/// Pushes an image with two artifacts that refer to it, the second one signed by a third.
fn push_with_referrers(to: &dyn Registry) {
    let client = to.client();
    let app = Image::index(7);
    let sbom = Image::referrer(app.root(), "example/sbom", b"sbom");
    let signature = Image::referrer(app.root(), "example/signature", b"signature");
    let of_sbom = Image::referrer(sbom.root(), "example/signature", b"of the sbom");
    app.push(&client, "team/app", "v1").unwrap();
    for (name, artifact) in [("s1", &sbom), ("s2", &signature), ("s3", &of_sbom)] {
        artifact.push(&client, "team/app", name).unwrap();
    }
    if to.name() != "docker-registry" {
        return;
    }
    // Without the API it is the pusher who keeps the list.
    for (subject, referrers) in [(&app, vec![&sbom, &signature]), (&sbom, vec![&of_sbom])] {
        let entries: Vec<_> = referrers
            .iter()
            .map(|image| scripted::descriptor(&image.root().media_type, &image.root().bytes))
            .collect();
        let list = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
            scripted::OCI_INDEX,
            entries.join(",")
        );
        let document = Document {
            media_type: scripted::OCI_INDEX.to_owned(),
            bytes: list.into(),
        };
        let tag = subject.digest().replace(':', "-");
        client.push_manifest("team/app", &tag, &document).unwrap();
    }
}

#[rstest::rstest]
#[tokio::test]
async fn referrers_are_the_same_at_both_registries(
    #[values(true, false)] from_embedded: bool,
    #[values(true, false)] to_embedded: bool,
) {
    let choose = |embed: bool| if embed { embedded() } else { debian() };
    let (from, to) = (choose(from_embedded), choose(to_embedded));
    push_with_referrers(from.as_ref());
    let (before, after) = copied(from.as_ref(), to.as_ref()).await;
    assert_eq!(before.referrers.values().flatten().count(), 3);
    assert_eq!(before, after);
}

/// Shapes that only the scripted registry can be made to hold.
fn odd_shapes() -> Vec<scripted::Image> {
    let shared = noise(1, 300_000);
    let amd = scripted::image(1, &[shared.clone(), noise(2, 70_000), blob("")]);
    let arm = scripted::image(2, &[shared, noise(3, 1)]);
    let inner = index(&[&scripted::image(3, &[blob(r#"{"_type":"in-toto"}"#)])]);
    let deep = index(&[&inner]);
    let artifact = raw(
        "application/vnd.oci.artifact.manifest.v1+json",
        format!(
            r#"{{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[{}]}}"#,
            scripted::descriptor("application/x", &noise(4, 10))
        ),
        vec![noise(4, 10)],
    );
    let attestation = scripted::image(3, &[blob(r#"{"_type":"in-toto"}"#)]);
    let root = index(&[&amd, &arm, &deep, &artifact]);
    vec![amd, arm, attestation, inner, deep, artifact, root]
}

async fn both(from: &Fake, to: &Fake) -> (Closure, Closure) {
    let before = closure::read(&from.host(), "app", "1").await;
    copy_app(&registries(&[from, to]), from, to).await.unwrap();
    let after = closure::read(&to.host(), "copy", "1").await;
    (before.unwrap(), after.unwrap())
}

#[tokio::test]
async fn odd_shapes_of_the_scripted_registry_are_the_same_afterwards() {
    let images = odd_shapes();
    let (from, to) = pair_with(&images).await;
    let (before, after) = both(&from, &to).await;
    assert_eq!(before, after);
    assert_eq!(before.manifests.len(), images.len());
}

#[tokio::test]
async fn referrers_of_the_scripted_registry_are_the_same_afterwards() {
    let app = scripted::image(1, &[noise(1, 1000)]);
    for api in [true, false] {
        let (from, to) = pair_with(std::slice::from_ref(&app)).await;
        from.put("app", &referrer(&app, "example/sbom", &blob("sbom")));
        to.set(|knobs| knobs.referrers = api);
        let (before, after) = both(&from, &to).await;
        assert_eq!(before.referrers.len(), 1);
        assert_eq!(before, after);
    }
}
