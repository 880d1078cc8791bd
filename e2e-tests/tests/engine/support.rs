//! What the engine's tests share: options for fakes, sources and targets on them.

use bytes::Bytes;
use mirror_copy::{
    CopyError, CopyOptions, CopyReport, Digest, Login, Registries, RegistryOptions, RetryPolicy,
    Source, TagOrDigest, Target, copy,
};
use std::time::Duration;
use testkit::scripted::{Fake, Image};

pub const PASSWORD: &str = "s3cret-pa55";

pub fn options(fakes: &[&Fake]) -> RegistryOptions {
    RegistryOptions {
        insecure_hosts: fakes.iter().map(|fake| fake.host()).collect(),
        retry: RetryPolicy {
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
            visible_within: Duration::from_millis(100),
            ..RetryPolicy::default()
        },
        ..RegistryOptions::default()
    }
}

pub fn registries(fakes: &[&Fake]) -> Registries {
    Registries::new(options(fakes)).unwrap()
}

/// Registries with the same login for each of these hosts.
pub fn registries_with_login(fakes: &[&Fake], user: &str) -> Registries {
    let mut options = options(fakes);
    for fake in fakes {
        let login = Login {
            username: user.into(),
            password: PASSWORD.to_owned().into(),
        };
        options.credentials =
            std::mem::take(&mut options.credentials).with_login(&fake.host(), login);
    }
    Registries::new(options).unwrap()
}

pub fn anchor_of(digest: &Digest) -> String {
    format!("{}.mirror", digest.as_ref().replace(':', "-"))
}

pub fn source(registries: &Registries, fake: &Fake, repository: &str, reference: &str) -> Source {
    Source {
        registry: registries.get(&fake.host()).unwrap(),
        repository: repository.into(),
        reference: TagOrDigest::parse(reference),
    }
}

pub fn target(registries: &Registries, fake: &Fake, repository: &str, tag: &str) -> Target {
    Target {
        registry: registries.get(&fake.host()).unwrap(),
        repository: repository.into(),
        tag: Some(tag.into()),
        anchor: Some(anchor_of),
    }
}

/// Copies `from/app:1` to `to/copy:1`, as the options say.
pub async fn copy_app_with(
    registries: &Registries,
    from: &Fake,
    to: &Fake,
    options: &CopyOptions,
) -> Result<CopyReport, CopyError> {
    let source = source(registries, from, "app", "1");
    let target = target(registries, to, "copy", "1");
    copy(&source, &target, options, &()).await
}

/// Copies `from/app:1` to `to/copy:1`.
pub async fn copy_app(
    registries: &Registries,
    from: &Fake,
    to: &Fake,
) -> Result<CopyReport, CopyError> {
    copy_app_with(registries, from, to, &CopyOptions::default()).await
}

/// Puts these manifests with their blobs into `app` of a new registry, the last one as `app:1`, and starts an empty
/// target.
pub async fn pair_with(images: &[Image]) -> (Fake, Fake) {
    let (from, to) = (Fake::start().await, Fake::start().await);
    for image in images {
        from.put("app", image);
    }
    from.put_tagged("app", "1", images.last().expect("something to copy"));
    (from, to)
}

/// Copies the last of these with everything that it names; answers with the target.
pub async fn copied(images: &[Image]) -> (Fake, Result<CopyReport, CopyError>) {
    let (from, to) = pair_with(images).await;
    let result = copy_app(&registries(&[&from, &to]), &from, &to).await;
    (to, result)
}

/// A manifest as it is written here.
pub fn raw(media_type: &str, manifest: impl Into<Bytes>, blobs: Vec<Bytes>) -> Image {
    Image {
        media_type: media_type.into(),
        manifest: manifest.into(),
        blobs,
    }
}

/// Whether these are at the target, and its tag stands for the last one.
pub fn arrived(to: &Fake, images: &[Image]) -> bool {
    let root = images.last().map(|image| image.digest().to_string());
    images.iter().all(|image| to.has("copy", image)) && to.tag("copy", "1") == root
}

/// Whether a failed copy left what nobody can mistake for an image.
pub fn nothing_tagged(to: &Fake) -> bool {
    to.tags() == 0
}
