//! What the engine's tests share: options for fakes, sources and targets on them.

use e2e_tests::scripted::Fake;
use mirror_copy::{
    CopyError, CopyOptions, CopyReport, Digest, Login, Registries, RegistryOptions, RetryPolicy,
    Source, TagOrDigest, Target, copy,
};
use std::time::Duration;

pub const PASSWORD: &str = "s3cret-pa55";

pub fn options(fakes: &[&Fake]) -> RegistryOptions {
    RegistryOptions {
        insecure_hosts: fakes.iter().map(|fake| fake.host()).collect(),
        retry: RetryPolicy {
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(5),
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

/// Copies `from/app:1` to `to/copy:1`.
pub async fn copy_app(
    registries: &Registries,
    from: &Fake,
    to: &Fake,
) -> Result<CopyReport, CopyError> {
    let source = source(registries, from, "app", "1");
    let target = target(registries, to, "copy", "1");
    copy(&source, &target, &CopyOptions::default(), &()).await
}
