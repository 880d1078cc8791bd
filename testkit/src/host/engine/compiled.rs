//! The engine of Kubewarden's policy server: wasmtime, which compiles the module to machine code.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use wapc::WebAssemblyEngineProvider;
use wasmtime_provider::wasmtime::{Config, Engine as Wasmtime};
use wasmtime_provider::{EpochDeadlines, WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

use super::Deadline;
use crate::host::HostError;

/// A module as machine code. Its guests end between `ticks - 1` and `ticks` times `tick`.
pub struct Compiled {
    module: WasmtimeEngineProviderPre,
    deadlines: Option<EpochDeadlines>,
    _ticker: Option<Ticker>,
}

impl Compiled {
    /// Compiles a module (binary or text format).
    pub fn new(wasm: &[u8], deadline: Option<Deadline>) -> Result<Self, HostError> {
        let mut config = Config::new();
        config.epoch_interruption(deadline.is_some());
        let engine =
            Wasmtime::new(&config).map_err(|error| HostError::Module(format!("{error:#}")))?;
        let module = WasmtimeEngineProviderBuilder::new()
            .engine(engine.clone())
            .module_bytes(wasm)
            .build_pre()
            .map_err(|error| HostError::Module(format!("{error:#}")))?;
        Ok(Self {
            module,
            deadlines: deadline.map(|deadline| EpochDeadlines {
                wapc_init: deadline.ticks,
                wapc_func: deadline.ticks,
            }),
            _ticker: deadline.map(|deadline| Ticker::start(engine, deadline.tick)),
        })
    }

    /// A fresh instance, not yet started.
    pub fn instance(&self) -> Result<Box<dyn WebAssemblyEngineProvider>, wapc::errors::Error> {
        Ok(Box::new(self.module.rehydrate(self.deadlines)?))
    }
}

/// Advances the engine's epoch until it is dropped.
struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: Wasmtime, tick: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
