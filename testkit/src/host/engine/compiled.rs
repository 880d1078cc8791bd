//! The engine of Kubewarden's policy server: wasmtime, which compiles the module to machine code.

use std::collections::HashMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wapc::WebAssemblyEngineProvider;
use wasmtime_provider::wasmtime::{Config, Engine as Wasmtime};
use wasmtime_provider::{EpochDeadlines, WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

use super::Deadline;
use crate::digest;
use crate::host::HostError;

/// The modules of this process. Compiling the policy takes seconds of processor time in a debug build, and hundreds of tests
/// use the same one.
static MODULES: LazyLock<Mutex<HashMap<Key, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// The digest of the module, and how often the epoch advances: that is a property of the engine.
type Key = (String, Option<Duration>);

struct Module {
    compiled: WasmtimeEngineProviderPre,
    _ticker: Option<Ticker>,
}

/// A module as machine code. Its guests end between `ticks - 1` and `ticks` times `tick`.
pub struct Compiled {
    module: Arc<Module>,
    deadlines: Option<EpochDeadlines>,
}

impl Compiled {
    /// Compiles a module (binary or text format), unless that was done already.
    pub fn new(wasm: &[u8], deadline: Option<Deadline>) -> Result<Self, HostError> {
        let key = (digest::of(wasm), deadline.map(|deadline| deadline.tick));
        // Held while compiling: two tests that begin at the same time need the same module.
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let module = if let Some(module) = modules.get(&key) {
            Arc::clone(module)
        } else {
            let module = Arc::new(Module::compile(wasm, key.1)?);
            modules.insert(key, Arc::clone(&module));
            module
        };
        Ok(Self {
            module,
            deadlines: deadline.map(|deadline| EpochDeadlines {
                wapc_init: deadline.ticks,
                wapc_func: deadline.ticks,
            }),
        })
    }

    /// A fresh instance, not yet started.
    pub fn instance(&self) -> Result<Box<dyn WebAssemblyEngineProvider>, wapc::errors::Error> {
        Ok(Box::new(self.module.compiled.rehydrate(self.deadlines)?))
    }
}

impl Module {
    fn compile(wasm: &[u8], tick: Option<Duration>) -> Result<Self, HostError> {
        let mut config = Config::new();
        config.epoch_interruption(tick.is_some());
        let engine =
            Wasmtime::new(&config).map_err(|error| HostError::Module(format!("{error:#}")))?;
        let compiled = WasmtimeEngineProviderBuilder::new()
            .engine(engine.clone())
            .module_bytes(wasm)
            .build_pre()
            .map_err(|error| HostError::Module(format!("{error:#}")))?;
        Ok(Self {
            compiled,
            _ticker: tick.map(|tick| Ticker::start(engine, tick)),
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
