//! Progress bars: the largest layers in transit, and below them the images, or the whole run.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mirror_copy::Digest;

use super::picture::{Below, LayerBar, Picture, TextBar};

/// Digits of a digest that identify a layer.
const SHORT_DIGEST: usize = 12;

const LAYER: &str =
    "  {prefix} [{wide_bar}] {binary_bytes:>10} / {binary_total_bytes:10} {msg:>12}";
const RUN: &str = "[{bar:20}] {wide_msg} {eta:>4}";
/// Truncated at the width of the terminal.
const TEXT: &str = "{wide_msg}";

/// For terminals with less than [`WIDE`] columns.
const NARROW_LAYER: &str = "  {prefix} {percent:>3}%";
const NARROW_RUN: &str = TEXT;
const WIDE: u16 = 72;

pub(super) struct Bars {
    screen: MultiProgress,
    layers: HashMap<(usize, Digest), ProgressBar>,
    images: HashMap<usize, ProgressBar>,
    run: Option<ProgressBar>,
    styles: Styles,
}

struct Styles {
    layer: ProgressStyle,
    image: ProgressStyle,
    run: ProgressStyle,
}

impl Bars {
    pub(super) fn new(screen: MultiProgress, columns: u16) -> Self {
        Self {
            screen,
            layers: HashMap::new(),
            images: HashMap::new(),
            run: None,
            styles: Styles::new(columns < WIDE),
        }
    }

    /// Updates the bars. Blocks while the terminal does.
    pub(super) fn draw(&mut self, picture: &Picture) {
        match &picture.below {
            Below::Images(images) => self.draw_images(images),
            Below::Run(run) => self.draw_run(run),
        }
        self.draw_layers(&picture.layers);
    }

    fn draw_layers(&mut self, layers: &[LayerBar]) {
        let Self {
            screen,
            layers: bars,
            styles,
            ..
        } = self;
        bars.retain(|(image, digest), bar| {
            let is_it = |layer: &LayerBar| layer.image == *image && layer.digest == *digest;
            let keep = layers.iter().any(is_it);
            if !keep {
                screen.remove(bar);
            }
            keep
        });
        for (place, layer) in layers.iter().enumerate() {
            let key = (layer.image, layer.digest.clone());
            let bar = bars.entry(key).or_insert_with(|| {
                let bar = screen.insert(place, ProgressBar::new(layer.size));
                bar.set_style(styles.layer.clone());
                bar.set_prefix(short(&layer.digest));
                bar
            });
            bar.set_message(layer.rate.to_string());
            bar.set_position(layer.sent);
        }
    }

    fn draw_images(&mut self, images: &[(usize, TextBar)]) {
        let Self {
            screen,
            images: bars,
            styles,
            ..
        } = self;
        bars.retain(|number, bar| {
            let keep = images.iter().any(|(shown, _)| shown == number);
            if !keep {
                screen.remove(bar);
            }
            keep
        });
        for (number, image) in images {
            let bar = bars.entry(*number).or_insert_with(|| {
                let bar = screen.add(ProgressBar::new(0));
                bar.set_style(styles.image.clone());
                bar
            });
            show(bar, image);
        }
    }

    fn draw_run(&mut self, run: &TextBar) {
        let bar = self.run.get_or_insert_with(|| {
            let bar = self.screen.add(ProgressBar::new(run.length));
            bar.set_style(self.styles.run.clone());
            bar
        });
        show(bar, run);
    }

    /// Removes all bars.
    pub(super) fn clear(&self) {
        let bars = self.layers.values().chain(self.images.values());
        for bar in bars.chain(&self.run) {
            bar.finish_and_clear();
        }
        let _ = self.screen.clear();
    }
}

impl Styles {
    fn new(narrow: bool) -> Self {
        let style = |wide, compact| {
            let template = if narrow { compact } else { wide };
            // The templates are constants, so an error is not expected.
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ")
        };
        Self {
            layer: style(LAYER, NARROW_LAYER),
            image: style(TEXT, TEXT),
            run: style(RUN, NARROW_RUN),
        }
    }
}

fn show(bar: &ProgressBar, shown: &TextBar) {
    bar.set_length(shown.length);
    bar.set_message(shown.text.clone());
    bar.set_position(shown.position);
}

fn short(digest: &Digest) -> String {
    digest.digest().chars().take(SHORT_DIGEST).collect()
}
