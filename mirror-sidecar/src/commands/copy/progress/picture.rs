//! A snapshot of the progress for bars. It is drawn without a lock.

use std::cmp::Reverse;

use mirror_copy::Digest;

use super::board::{Board, Image, Rate};

/// Maximum number of layers.
const LAYERS: usize = 8;

/// Steps of one image on the bar of the run, so that the bar also moves within images.
const STEPS: u64 = 1000;

#[derive(Debug)]
pub(super) struct Picture {
    /// The largest layers in transit, largest first.
    pub(super) layers: Vec<LayerBar>,
    pub(super) below: Below,
}

/// The bars below the layers.
#[derive(Debug)]
pub(super) enum Below {
    /// Few images, each with its number.
    Images(Vec<(usize, TextBar)>),
    /// All images together.
    Run(TextBar),
}

/// A layer in transit, identified by its image and its digest.
#[derive(Debug)]
pub(super) struct LayerBar {
    pub(super) image: usize,
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
    /// In bytes.
    pub(super) sent: u64,
    pub(super) rate: Rate,
}

#[derive(Debug)]
pub(super) struct TextBar {
    pub(super) length: u64,
    pub(super) position: u64,
    pub(super) text: String,
}

impl Picture {
    pub(super) fn of(board: &Board) -> Self {
        Self {
            layers: layers(board),
            below: below(board),
        }
    }
}

fn layers(board: &Board) -> Vec<LayerBar> {
    let of_image = |(number, image): (&usize, &Image)| {
        let image_number = *number;
        let bars = image.layers().map(move |(digest, layer)| LayerBar {
            image: image_number,
            digest: digest.clone(),
            size: layer.size,
            sent: layer.sent,
            rate: layer.rate,
        });
        bars.collect::<Vec<_>>()
    };
    let mut layers: Vec<_> = board.running.iter().flat_map(of_image).collect();
    layers.sort_by(|a, b| {
        let key = |layer: &LayerBar| (Reverse(layer.size), layer.image);
        key(a)
            .cmp(&key(b))
            .then_with(|| a.digest.as_ref().cmp(b.digest.as_ref()))
    });
    layers.truncate(LAYERS);
    layers
}

fn below(board: &Board) -> Below {
    if board.is_few() {
        let bar = |(number, image): (&usize, &Image)| (*number, image_bar(image));
        return Below::Images(board.running.iter().map(bar).collect());
    }
    let done = (board.done() as u64).saturating_mul(STEPS);
    Below::Run(TextBar {
        length: (board.total as u64).saturating_mul(STEPS),
        position: done + board.running.values().map(steps).sum::<u64>(),
        text: board.state(),
    })
}

fn image_bar(image: &Image) -> TextBar {
    TextBar {
        length: image.to_send().bytes,
        position: image.sent(),
        text: format!("{}: {}", image.name, image.state()),
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
