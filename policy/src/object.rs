//! The parts of an object that the policy needs, read from its text in one pass.

use std::borrow::Cow;
use std::ops::Range;

use mirror_contract::workload::{ImageList, ORIGINAL_IMAGES, READMITTED, SKIP, STATIC_POD};
use mirror_contract::{Settings, placeholder};

use crate::images::{Images, Slot};
use crate::json::{Cursor, Holder, Member};
use crate::pull_secrets::{self, ListedSecrets};

pub struct Object<'a> {
    pub text: &'a str,
    /// Its own metadata. For a Pod, this is also the template.
    part: Part<'a>,
    template: Option<Part<'a>>,
    is_pod: bool,
}

/// An object or a Pod template: both have `metadata` and `spec`.
#[derive(Default)]
pub struct Part<'a> {
    pub holder: Holder,
    pub range: Range<usize>,
    pub metadata: Metadata<'a>,
    /// `None` if it names no `containers`.
    pub spec: Option<PodSpec<'a>>,
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Default)]
pub struct Metadata<'a> {
    pub holder: Holder,
    pub annotations: Holder,
    /// The annotation with the original images, as a member of `annotations`.
    pub originals: Option<Member>,
    pub originals_text: Option<Cow<'a, str>>,
    /// Bytes of the keys and values of all other annotations.
    pub other_annotations: usize,
    /// The value of the annotation that the sidecar changes to send a workload through admission again.
    pub readmitted: Option<Cow<'a, str>>,
    pub is_static_pod: bool,
    pub is_deleted: bool,
    /// The skip annotation or label is set.
    pub opts_out: bool,
    /// A label or annotation makes Istio inject containers.
    pub requests_injection: bool,
    /// The settings name one of the labels.
    pub has_skipped_label: bool,
    /// The settings name one of the owners.
    pub has_skipped_owner: bool,
    /// One of the owners is a controller.
    pub has_controller: bool,
    pub controller: Controller<'a>,
}

/// The kind and the name of a controller, empty if missing.
#[derive(Default)]
pub struct Controller<'a> {
    pub kind: Cow<'a, str>,
    pub name: Cow<'a, str>,
}

pub struct PodSpec<'a> {
    pub text: &'a str,
    pub images: Images<'a>,
    pub secrets: ListedSecrets<'a>,
}

impl<'a> Object<'a> {
    /// Reads `text`, in which `path` leads to the Pod template; `None` if it is nested too deeply for the host.
    pub fn read(text: &'a str, path: &[&str], settings: &Settings<'_>) -> Option<Self> {
        let mut cursor = Cursor::new(text);
        let mut object = Self {
            text,
            part: Part::default(),
            template: None,
            is_pod: path.is_empty(),
        };
        if let Some((first, rest)) = path.split_first() {
            let start = cursor.position();
            object.part.holder = cursor.enter_holder();
            if let Holder::Object { .. } = object.part.holder {
                while let Some(key) = cursor.next_key() {
                    match &*key.name {
                        "metadata" => object.part.metadata = Metadata::read(&mut cursor, settings),
                        name if name == *first => {
                            object.template = descend(&mut cursor, rest, settings);
                        }
                        _ => cursor.skip(),
                    }
                }
            }
            object.part.range = cursor.since(start);
        } else {
            object.part = Part::read(&mut cursor, settings);
        }
        (!cursor.is_too_deep()).then_some(object)
    }

    pub fn metadata(&self) -> &Metadata<'a> {
        &self.part.metadata
    }

    /// The Pod template, which is the object itself if it is a Pod.
    pub fn template(&self) -> Option<&Part<'a>> {
        if self.is_pod {
            Some(&self.part)
        } else {
            self.template.as_ref()
        }
    }

    pub fn spec(&self) -> Option<&PodSpec<'a>> {
        self.template()?.spec.as_ref()
    }

    /// Whether Istio injects containers into its Pods. Labels of the namespace are not known.
    pub fn is_injected(&self) -> bool {
        let is_customised =
            |slot: &Slot<'_>| placeholder::is_customised_sidecar(&slot.name, &slot.image);
        let template = self.template();
        template.is_some_and(|template| template.metadata.requests_injection)
            || self
                .spec()
                .is_some_and(|spec| spec.images.slots.iter().any(is_customised))
    }

    pub fn template_text(&self) -> Option<&'a str> {
        self.text.get(self.template()?.range.clone())
    }
}

fn descend<'a>(
    cursor: &mut Cursor<'a>,
    path: &[&str],
    settings: &Settings<'_>,
) -> Option<Part<'a>> {
    let Some((first, rest)) = path.split_first() else {
        return Some(Part::read(cursor, settings));
    };
    let mut template = None;
    if cursor.enter_object() {
        while let Some(key) = cursor.next_key() {
            if key.name == *first {
                template = descend(cursor, rest, settings);
            } else {
                cursor.skip();
            }
        }
    }
    template
}

impl<'a> Part<'a> {
    fn read(cursor: &mut Cursor<'a>, settings: &Settings<'_>) -> Self {
        let start = cursor.position();
        let mut part = Self {
            holder: cursor.enter_holder(),
            ..Self::default()
        };
        if let Holder::Object { .. } = part.holder {
            while let Some(key) = cursor.next_key() {
                match &*key.name {
                    "metadata" => part.metadata = Metadata::read(cursor, settings),
                    "spec" => part.spec = PodSpec::read(cursor),
                    _ => cursor.skip(),
                }
            }
        }
        part.range = cursor.since(start);
        part
    }
}

impl<'a> Metadata<'a> {
    fn read(cursor: &mut Cursor<'a>, settings: &Settings<'_>) -> Self {
        let mut metadata = Self {
            holder: cursor.enter_holder(),
            ..Self::default()
        };
        let Holder::Object { .. } = metadata.holder else {
            return metadata;
        };
        while let Some(key) = cursor.next_key() {
            match &*key.name {
                "annotations" => metadata.read_annotations(cursor),
                "labels" => metadata.read_labels(cursor, settings),
                "ownerReferences" => metadata.read_owners(cursor, settings),
                "deletionTimestamp" => {
                    metadata.is_deleted = !cursor.null();
                    if metadata.is_deleted {
                        cursor.skip();
                    }
                }
                _ => cursor.skip(),
            }
        }
        metadata
    }

    fn read_annotations(&mut self, cursor: &mut Cursor<'a>) {
        self.annotations = cursor.enter_holder();
        let Holder::Object { .. } = self.annotations else {
            return;
        };
        while let Some(key) = cursor.next_key() {
            let start = cursor.position();
            let value = cursor.string();
            if key.name == ORIGINAL_IMAGES {
                self.originals = Some(key.member(start, cursor));
                self.originals_text = value;
                continue;
            }
            self.is_static_pod |= key.name == STATIC_POD;
            self.opts_out |= key.name == SKIP && value.as_deref() == Some("true");
            self.requests_injection |=
                placeholder::requests_injection(&key.name, value.as_deref().unwrap_or_default());
            self.other_annotations +=
                key.name.len() + value.as_ref().map_or(0, |value| value.len());
            if key.name == READMITTED {
                self.readmitted = value;
            }
        }
    }

    fn read_labels(&mut self, cursor: &mut Cursor<'a>, settings: &Settings<'_>) {
        if !cursor.enter_object() {
            return;
        }
        while let Some(key) = cursor.next_key() {
            if let Some(value) = cursor.string() {
                self.opts_out |= key.name == SKIP && value == "true";
                self.requests_injection |= placeholder::requests_injection(&key.name, &value);
                self.has_skipped_label |= settings.skips_label(&key.name, &value);
            }
        }
    }

    fn read_owners(&mut self, cursor: &mut Cursor<'a>, settings: &Settings<'_>) {
        if !cursor.enter_array() {
            return;
        }
        while cursor.next_element() {
            let (mut api_version, mut kind) = (Cow::default(), Cow::default());
            let (mut name, mut is_controller) = (Cow::default(), false);
            if !cursor.enter_object() {
                continue;
            }
            while let Some(key) = cursor.next_key() {
                match &*key.name {
                    "apiVersion" => api_version = cursor.string().unwrap_or_default(),
                    "kind" => kind = cursor.string().unwrap_or_default(),
                    "name" => name = cursor.string().unwrap_or_default(),
                    "controller" => is_controller = cursor.raw() == "true",
                    _ => cursor.skip(),
                }
            }
            self.has_skipped_owner |= settings.skips_owner(&api_version, &kind);
            if is_controller {
                self.has_controller = true;
                self.controller = Controller { kind, name };
            }
        }
    }
}

impl<'a> PodSpec<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Option<Self> {
        let start = cursor.position();
        let holder = cursor.enter_holder();
        let Holder::Object { .. } = holder else {
            return None;
        };
        let mut images = Images::default();
        let mut secrets = ListedSecrets::new(holder);
        let mut has_containers = false;
        while let Some(key) = cursor.next_key() {
            has_containers |= key.name == "containers";
            if let Some(list) = ImageList::of(&key.name) {
                images.read(list, cursor);
            } else if key.name == pull_secrets::KEY {
                secrets.read(&key, cursor);
            } else {
                cursor.skip();
            }
        }
        images.sort();
        has_containers.then(|| Self {
            text: cursor.text_of(cursor.since(start)),
            images,
            secrets,
        })
    }
}
