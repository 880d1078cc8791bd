//! Which images are mirrored.

use mirror_contract::ImageRef;

use super::ImageFilter;
use super::patterns::{ImagePattern, name};

impl ImageFilter<'_> {
    /// Whether `image` is mirrored.
    pub fn takes(&self, image: &ImageRef<'_>) -> bool {
        if self.include.is_empty() && self.exclude.is_empty() {
            return true;
        }
        let canonical = image.to_string();
        let (undigested, _) = canonical.split_once('@').unwrap_or((&canonical, ""));
        let forms = [&canonical, undigested, name(image, &canonical)];
        let any = |patterns: &[ImagePattern<'_>]| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| forms.into_iter().any(|form| pattern.fits(form)))
        };
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}
