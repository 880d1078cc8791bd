//! The engine of the demo: wasmi, an interpreter. Guests see the same waPC functions and the part of WASI that Rust uses.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wapc::{ModuleState, WebAssemblyEngineProvider, wapc_functions};
use wasmi::{
    CompilationMode, Config, Engine, Error, Instance, Linker, Module, Store, TypedFunc,
    TypedResumableCall, WasmParams, WasmResults,
};

use super::imports::{self, Guest};
use super::{Deadline, INTERRUPTED};
use crate::host::HostError;

/// Instructions between two looks at the clock: a fraction of a second, even in a debug build.
const SLICE: u64 = 1_000_000;

type Failure = Box<dyn StdError + Send + Sync>;

/// A module, validated and ready for instances.
pub struct Interpreted {
    module: Module,
    linker: Arc<Linker<Guest>>,
    limit: Option<Duration>,
}

impl Interpreted {
    pub fn new(wasm: &[u8], deadline: Option<Deadline>) -> Result<Self, HostError> {
        let mut config = Config::default();
        config.consume_fuel(true);
        // Translating a function during a call would cost fuel of its own, and such a call cannot be resumed.
        config.compilation_mode(CompilationMode::Eager);
        let engine = Engine::new(&config);
        let unusable = |error: Error| HostError::Module(error.to_string());
        let module = Module::new(&engine, wasm).map_err(unusable)?;
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(unusable)?;
        Ok(Self {
            module,
            linker: Arc::new(linker),
            limit: deadline.map(|deadline| {
                let ticks = u32::try_from(deadline.ticks).unwrap_or(u32::MAX);
                deadline.tick.saturating_mul(ticks)
            }),
        })
    }

    /// A fresh instance, not yet started.
    pub fn instance(&self) -> Box<dyn WebAssemblyEngineProvider> {
        Box::new(Provider {
            module: self.module.clone(),
            linker: Arc::clone(&self.linker),
            limit: self.limit,
            running: None,
        })
    }
}

/// An instance for one call.
struct Provider {
    module: Module,
    linker: Arc<Linker<Guest>>,
    limit: Option<Duration>,
    running: Option<(Store<Guest>, Instance)>,
}

/// Why a guest did not end by itself.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("{}", INTERRUPTED)]
    Late,
    #[error(transparent)]
    Trap(#[from] Error),
}

impl WebAssemblyEngineProvider for Provider {
    fn init(&mut self, host: Arc<ModuleState>) -> Result<(), Failure> {
        let mut store = Store::new(self.module.engine(), Guest { host });
        store.set_fuel(SLICE)?;
        let instance = self
            .linker
            .instantiate_and_start(&mut store, &self.module)?;
        for start in wapc_functions::REQUIRED_STARTS {
            if instance.get_export(&store, start).is_some() {
                let start = instance.get_typed_func::<(), ()>(&store, start)?;
                match run(&mut store, start, (), self.limit) {
                    Err(Stopped::Trap(error)) if error.i32_exit_status() == Some(0) => {}
                    result => result?,
                }
            }
        }
        self.running = Some((store, instance));
        Ok(())
    }

    fn call(&mut self, operation: i32, payload: i32) -> Result<i32, Failure> {
        let (store, instance) = self.running.as_mut().ok_or("the guest was not started")?;
        let call = instance
            .get_typed_func::<(i32, i32), i32>(&*store, wapc_functions::GUEST_CALL)
            .map_err(|_| "the guest exports no function for calls")?;
        match run(store, call, (operation, payload), self.limit) {
            Ok(code) => Ok(code),
            Err(error) => {
                store.data().host.set_guest_error(error.to_string());
                Ok(0)
            }
        }
    }

    fn replace(&mut self, _module: &[u8]) -> Result<(), Failure> {
        Err("a guest is never replaced".into())
    }
}

/// Calls a function in slices, until it ends or the time is up.
fn run<P: WasmParams, R: WasmResults>(
    store: &mut Store<Guest>,
    function: TypedFunc<P, R>,
    parameters: P,
    limit: Option<Duration>,
) -> Result<R, Stopped> {
    let start = Instant::now();
    store.set_fuel(SLICE)?;
    let mut state = function.call_resumable(&mut *store, parameters)?;
    loop {
        match state {
            TypedResumableCall::Finished(result) => return Ok(result),
            TypedResumableCall::HostTrap(trap) => {
                let error = trap.host_error();
                let copied = error
                    .i32_exit_status()
                    .map_or_else(|| Error::new(error.to_string()), Error::i32_exit);
                return Err(Stopped::Trap(copied));
            }
            TypedResumableCall::OutOfFuel(call) => {
                if limit.is_some_and(|limit| start.elapsed() >= limit) {
                    return Err(Stopped::Late);
                }
                store.set_fuel(SLICE.max(call.required_fuel()))?;
                state = call.resume(&mut *store)?;
            }
        }
    }
}
