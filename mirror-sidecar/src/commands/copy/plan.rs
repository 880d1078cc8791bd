//! Sources and targets of the copies of a run.

use mirror_contract::ImageRef;
use mirror_copy::{Registries, Source, Target};

use crate::args::image::parse_image;
use crate::args::{CopyArgs, UsageError};
use crate::commands::list::{Entry, List, RepositoryName};
use crate::locations::{self, Locations};

#[derive(Debug)]
pub(super) struct Plan {
    /// The canonical reference of the original.
    pub(super) image: String,
    pub(super) copy: String,
    pub(super) source: Source,
    pub(super) target: Target,
}

/// A repository whose tags are copied.
pub(super) struct Repository {
    pub(super) name: RepositoryName,
    pub(super) planner: std::sync::Arc<Planner>,
    /// The repository at the source, with any tag.
    pub(super) source: Source,
}

/// Plans copies. They share registries, and with them connections, tokens and learned capabilities.
pub(super) struct Planner {
    to: To,
}

enum To {
    /// The names in the backup.
    Backup(Box<Locations>),
    /// The name in `--to`, for one image.
    Image(Named<ImageRef<'static>>),
    /// The tag of the original in the repository in `--to`.
    Repository(Named<RepositoryName>),
}

struct Named<T> {
    name: T,
    sources: Registries,
    targets: Registries,
}

impl Planner {
    /// A planner for `count` images or repositories.
    pub(super) fn new(args: &CopyArgs, count: usize) -> Result<Self, UsageError> {
        let Some(to) = &args.to else {
            let backup = args.backup.backup()?;
            let (sources, targets) = registries(args, backup.registry())?;
            let images = Locations::new(backup, &targets, sources)
                .map_err(|error| UsageError(format!("--registry: {error}")))?;
            return Ok(Self {
                to: To::Backup(Box::new(images)),
            });
        };
        if count != 1 {
            let what = if args.all_tags { "repository" } else { "image" };
            return Err(UsageError(format!("--to needs exactly one {what}")));
        }
        let wrong =
            |reason: &dyn ToString| UsageError(format!("--to {to:?}: {}", reason.to_string()));
        if args.all_tags {
            let name = RepositoryName::parse(to).map_err(|reason| wrong(&reason))?;
            let probe = name.image("latest").ok_or_else(|| wrong(&"no tag fits"))?;
            let named = Named::new(args, name, &probe)?;
            return Ok(Self {
                to: To::Repository(named),
            });
        }
        let copy = parse_image(to).map_err(|reason| wrong(&reason))?;
        if copy.digest().is_some() {
            return Err(wrong(
                &"the copy has the digest of the original, give it a tag only",
            ));
        }
        let names_tag = to.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let to = if names_tag {
            To::Image(Named::new(args, copy.clone(), &copy)?)
        } else {
            let name = RepositoryName::parse(to).map_err(|reason| wrong(&reason))?;
            To::Repository(Named::new(args, name, &copy)?)
        };
        Ok(Self { to })
    }

    /// Plans the copies of images. All errors are reported together.
    pub(super) fn images(&self, images: List<ImageRef<'static>>) -> Result<Vec<Plan>, UsageError> {
        let mut mistakes = images.mistakes;
        let mut plans = Vec::with_capacity(images.entries.len());
        for Entry { origin, value } in images.entries {
            match self.plan(&value) {
                Ok(plan) => plans.push(plan),
                Err(reason) => mistakes.add(origin, &format!("image {value}: {reason}")),
            }
        }
        mistakes.check()?;
        Ok(plans)
    }

    /// Checks that the repositories can be copied. All errors are reported together.
    pub(super) fn repositories(
        self,
        names: List<RepositoryName>,
    ) -> Result<Vec<Repository>, UsageError> {
        let planner = std::sync::Arc::new(self);
        let mut mistakes = names.mistakes;
        let mut repositories = Vec::with_capacity(names.entries.len());
        for Entry {
            origin,
            value: name,
        } in names.entries
        {
            let probe = name.image("latest").ok_or_else(|| "no tag fits".to_owned());
            match probe.and_then(|probe| planner.plan(&probe)) {
                Ok(plan) => repositories.push(Repository {
                    name,
                    planner: std::sync::Arc::clone(&planner),
                    source: plan.source,
                }),
                Err(reason) => mistakes.add(origin, &format!("repository {name}: {reason}")),
            }
        }
        mistakes.check()?;
        Ok(repositories)
    }

    /// Plans the copy of one image. The error is the reason why it cannot be copied.
    pub(super) fn plan(&self, image: &ImageRef<'static>) -> Result<Plan, String> {
        match &self.to {
            To::Backup(images) => {
                let copy = images.backup().target(image).map_err(text)?;
                Ok(Plan {
                    image: image.to_string(),
                    copy: copy.to_string(),
                    source: images.source(image).map_err(text)?,
                    target: images.target(image).map_err(text)?,
                })
            }
            To::Image(named) => named.plan(image, &named.name),
            To::Repository(named) => {
                let copy = image.tag().and_then(|tag| named.name.image(tag));
                let copy = copy.ok_or("it has no tag that the copy could have; add a tag to --to");
                named.plan(image, &copy?)
            }
        }
    }
}

impl<T> Named<T> {
    fn new(args: &CopyArgs, name: T, copy: &ImageRef<'_>) -> Result<Self, UsageError> {
        // Without --registry, the login is for the registry of the copy.
        let login_host = args.backup.registry().unwrap_or(copy.host());
        let (sources, targets) = registries(args, login_host)?;
        Ok(Self {
            name,
            sources,
            targets,
        })
    }

    fn plan(&self, image: &ImageRef<'static>, copy: &ImageRef<'static>) -> Result<Plan, String> {
        Ok(Plan {
            image: image.to_string(),
            copy: copy.to_string(),
            source: locations::source(&self.sources, image).map_err(text)?,
            target: locations::named_target(&self.targets, copy).map_err(text)?,
        })
    }
}

/// The registries of sources and of targets. Only targets use the login.
fn registries(args: &CopyArgs, login_host: &str) -> Result<(Registries, Registries), UsageError> {
    let sources = args.sources.credentials()?;
    let targets = args.backup.add_login(sources.clone(), login_host)?;
    let targets = args.sources.registries(targets)?;
    Ok((args.sources.registries(sources)?, targets))
}

fn text(reason: impl std::fmt::Display) -> String {
    reason.to_string()
}
