//! Progress as bars: the largest layers in flight, and below them the images, or all of them as one.

use std::cmp::Reverse;
use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mirror_copy::Digest;

use super::board::{Board, Image, Layer};
use crate::output;

/// Layers shown at the same time.
const LAYERS: usize = 8;

/// Digits of a digest that people tell layers apart by.
const SHORT_DIGEST: usize = 12;

/// Steps that an image counts for on a bar of many images, so that the bar moves within images, too.
const STEPS: u64 = 1000;

const LAYER: &str =
    "  {prefix} [{wide_bar}] {binary_bytes:>10} / {binary_total_bytes:10} {msg:>12}";
const RUN: &str = "[{bar:20}] {wide_msg} {eta:>4}";
/// Cut where the terminal ends.
const TEXT: &str = "{wide_msg}";

/// The same for terminals of less than [`WIDE`] columns: a line that wraps would only be harder to read.
const NARROW_LAYER: &str = "  {prefix} {percent:>3}%";
const NARROW_RUN: &str = TEXT;
const WIDE: u16 = 72;

/// The bars on the screen.
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
    pub(super) fn new() -> Self {
        Self {
            screen: output::bars(),
            layers: HashMap::new(),
            images: HashMap::new(),
            run: None,
            styles: Styles::new(output::columns() < WIDE),
        }
    }

    /// Brings the bars up to date.
    pub(super) fn draw(&mut self, board: &Board) {
        self.draw_below(board);
        let mut layers: Vec<(usize, &Digest, Layer)> = board
            .running
            .iter()
            .flat_map(|(number, image)| {
                let layers = image.layers.iter();
                layers.map(|(digest, layer)| (*number, digest, *layer))
            })
            .collect();
        layers
            .sort_by_key(|&(number, digest, layer)| (Reverse(layer.size), number, digest.as_ref()));
        layers.truncate(LAYERS);
        let shown = |number: usize, digest: &Digest| {
            layers
                .iter()
                .any(|layer| (layer.0, layer.1) == (number, digest))
        };
        let screen = &self.screen;
        self.layers.retain(|(number, digest), bar| {
            let keep = shown(*number, digest);
            if !keep {
                screen.remove(bar);
            }
            keep
        });
        let styles = &self.styles;
        for (place, (number, digest, layer)) in layers.into_iter().enumerate() {
            let bar = self
                .layers
                .entry((number, digest.clone()))
                .or_insert_with(|| {
                    let bar = screen.insert(place, ProgressBar::new(layer.size));
                    bar.set_style(styles.layer.clone());
                    bar.set_prefix(short(digest));
                    bar
                });
            bar.set_message(layer.rate.to_string());
            bar.set_position(layer.sent);
        }
    }

    /// The lines below the layers.
    fn draw_below(&mut self, board: &Board) {
        let Self {
            screen,
            images,
            run,
            styles,
            ..
        } = self;
        if !board.is_few() {
            let length = (board.total as u64).saturating_mul(STEPS);
            let bar = run.get_or_insert_with(|| {
                let bar = screen.add(ProgressBar::new(length));
                bar.set_style(styles.run.clone());
                bar
            });
            let done = (board.done() as u64).saturating_mul(STEPS);
            bar.set_message(board.state());
            bar.set_position(done + board.running.values().map(steps).sum::<u64>());
            return;
        }
        images.retain(|number, bar| {
            let keep = board.running.contains_key(number);
            if !keep {
                screen.remove(bar);
            }
            keep
        });
        for (number, image) in &board.running {
            let bar = images.entry(*number).or_insert_with(|| {
                let bar = screen.add(ProgressBar::new(0));
                bar.set_style(styles.image.clone());
                bar
            });
            bar.set_length(image.bytes);
            bar.set_message(format!("{}: {}", image.name, image.state()));
            bar.set_position(image.sent());
        }
    }

    /// Takes all bars off the screen.
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
            // The templates are our own; a mistake in one costs its looks.
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

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "between 0 and 1000"
)]
fn steps(image: &Image) -> u64 {
    (image.share() * STEPS as f64) as u64
}

fn short(digest: &Digest) -> String {
    digest.digest().chars().take(SHORT_DIGEST).collect()
}
