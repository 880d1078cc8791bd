//! A terminal that stands still, as with Ctrl-S, and a source that is silent.

use std::io;
use std::slice;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use mirror_copy::Progress as _;

use super::*;

/// Far longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells when something is written to it, and then takes nothing until it is let go.
#[derive(Debug)]
struct Standing {
    reached: Sender<()>,
    let_go: Mutex<Receiver<()>>,
}

impl TermLike for Standing {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write_str(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let _ = self.reached.send(());
        // Let go for good as soon as the other end is dropped.
        let _ = self.let_go.lock().unwrap().recv();
        Ok(())
    }
}

#[test]
fn a_terminal_that_stands_still_does_not_hold_up_copies() {
    let (reached, is_reached) = channel();
    let (let_go, is_let_go) = channel();
    let standing = Standing {
        reached,
        let_go: Mutex::new(is_let_go),
    };
    let target = ProgressDrawTarget::term_like_with_hz(Box::new(standing), 10);
    let bars = Bars::new(MultiProgress::with_draw_target(target), 80);
    let progress = Arc::new(Progress::shown_by(View::Bars(Box::new(Mutex::new(bars)))));
    progress.start(1);
    let image = watch(Arc::clone(&progress), 0, "docker.io/library/nginx:1");

    let drawn = Arc::clone(&progress);
    let drawing = thread::spawn(move || drawn.tick());
    is_reached.recv_timeout(PATIENCE).expect("bars are drawn");
    let (told, is_told) = channel();
    let copying = thread::spawn(move || {
        let digest = &format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        image.event(Event::BlobStarted { digest, size: 100 });
        image.event(Event::Bytes { digest, bytes: 60 });
        let _ = told.send(());
    });
    let in_time = is_told.recv_timeout(PATIENCE);
    assert!(!drawing.is_finished(), "the terminal let go by itself");
    drop(let_go);
    drawing.join().unwrap();
    copying.join().unwrap();
    in_time.expect("the copy waits for the terminal");
    assert_eq!(progress.news().board.running[&0].sent(), 60);
}

#[test]
fn a_source_that_holds_back_a_blob_is_reported_once_for_each_wait() {
    let progress = Arc::new(Progress::shown_by(View::Json(Mutex::default())));
    progress.start(1);
    let image = watch(Arc::clone(&progress), 0, "nginx:1");
    let digest = &format!("sha256:{}", "a".repeat(64)).parse().unwrap();
    image.event(Event::WaitingForSource { digest });
    image.event(Event::WaitingForSource { digest });
    let waiting =
        format!(r#"{{"event":"waiting_for_source","image":"nginx:1","digest":"{digest}"}}"#);
    let lines = || std::mem::take(&mut progress.news().pending);
    assert_eq!(lines(), slice::from_ref(&waiting));

    image.event(Event::BlobStarted { digest, size: 100 });
    assert_eq!(lines().len(), 1);
    image.event(Event::WaitingForSource { digest });
    assert_eq!(lines(), [waiting]);
}
