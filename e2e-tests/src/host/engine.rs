//! Compiles the module once, runs every call in a fresh instance, and stops guests that take too long.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use wapc::WapcHost;
use wasmtime_provider::wasmtime::{Config, Engine as Wasmtime};
use wasmtime_provider::{EpochDeadlines, WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

use super::HostError;
use super::callback::Callbacks;
use crate::blocking;

/// How long a guest may run: between `ticks - 1` and `ticks` times `tick`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub ticks: u64,
    pub tick: Duration,
}

pub(super) struct Engine {
    module: WasmtimeEngineProviderPre,
    deadlines: Option<EpochDeadlines>,
    _ticker: Option<Ticker>,
}

impl Engine {
    /// Compiles a module (binary or text format). Without a deadline a guest may run for ever, as in kwctl.
    pub fn compile(wasm: &[u8], deadline: Option<Deadline>) -> Result<Self, HostError> {
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

    /// Calls one operation of a fresh instance. No state survives from one call to the next.
    pub fn call(
        &self,
        operation: &str,
        payload: &[u8],
        callbacks: Callbacks,
    ) -> Result<Vec<u8>, wapc::errors::Error> {
        // WASI functions block on a runtime of their own, which is not possible inside another one.
        blocking::off_runtime(move || {
            let instance = self.module.rehydrate(self.deadlines)?;
            let host = WapcHost::new(
                Box::new(instance),
                Some(Box::new(
                    move |_, binding, namespace, operation, payload| {
                        callbacks.handle(binding, namespace, operation, payload)
                    },
                )),
            )?;
            host.call(operation, payload)
        })
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
