//! The reference of an image, shared by all who use it.

use std::sync::Arc;

use mirror_contract::ImageRef;

/// An image in its normal form, without the tag of one that is pinned to a digest. All its users share it.
pub type Image = Arc<ImageRef<'static>>;
