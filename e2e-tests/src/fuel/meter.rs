//! Runs a policy and counts its instructions.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use wasmtime_provider::wasmtime::{self, Config, Engine, InstancePre, Linker, Module, Store};

use super::cases::Case;
use super::imports::{self, Guest};

/// Far more than any evaluation takes; a policy that never ends is stopped by it within seconds.
const FUEL: u64 = 10_000_000_000;

/// A policy in a host that counts.
pub struct Meter {
    engine: Engine,
    module: InstancePre<Guest>,
}

/// What one evaluation took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Instructions of the instance's start.
    pub start: u64,
    /// Instructions of the call.
    pub call: u64,
    /// Bytes of linear memory at the end; an instance never gives any back.
    pub memory: usize,
    /// What the policy answered.
    pub answer: Vec<u8>,
}

impl Meter {
    /// Compiles a module.
    ///
    /// # Errors
    /// When it is not one, or not that of a waPC policy.
    pub fn new(wasm: &[u8]) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.consume_fuel(true);
        let engine = Engine::new(&config).map_err(plain)?;
        let module = Module::new(&engine, wasm).map_err(plain)?;
        let mut linker = Linker::new(&engine);
        imports::link(&mut linker).map_err(plain)?;
        // What else a module imports, it may have but not use.
        linker
            .define_unknown_imports_as_traps(&module)
            .map_err(plain)?;
        let module = linker.instantiate_pre(&module).map_err(plain)?;
        Ok(Self { engine, module })
    }

    /// Runs a case in a fresh instance. `seed` is what the policy takes for random bytes; the clock stands still.
    ///
    /// # Errors
    /// When the policy fails, or asks what the case does not know.
    pub fn run(&self, case: &Arc<Case>, seed: u8) -> anyhow::Result<Spent> {
        let guest = Guest::new(Arc::clone(case), seed);
        let mut store = Store::new(&self.engine, guest);
        store.set_fuel(FUEL).map_err(plain)?;
        let instance = self.module.instantiate(&mut store).map_err(plain)?;
        for start in wapc::wapc_functions::REQUIRED_STARTS {
            if let Ok(start) = instance.get_typed_func::<(), ()>(&mut store, start) {
                start.call(&mut store, ()).map_err(plain)?;
            }
        }
        let call = instance
            .get_typed_func::<(i32, i32), i32>(&mut store, wapc::wapc_functions::GUEST_CALL)
            .map_err(plain)?;
        let started = store.get_fuel().map_err(plain)?;
        let lengths = (length(case.operation.as_bytes())?, length(&case.payload)?);
        let code = call.call(&mut store, lengths).map_err(plain)?;
        let ended = store.get_fuel().map_err(plain)?;
        let memory = instance
            .get_memory(&mut store, imports::MEMORY)
            .map_or(0, |memory| memory.data_size(&store));
        let guest = store.into_data();
        if code != 1 {
            bail!("{}: the policy failed: {}", case.name, guest.error());
        }
        Ok(Spent {
            start: FUEL - started,
            call: started - ended,
            memory,
            answer: guest.into_response().context("the policy gave no answer")?,
        })
    }
}

fn length(bytes: &[u8]) -> anyhow::Result<i32> {
    Ok(i32::try_from(bytes.len())?)
}

/// The engine has an error type of its own.
#[allow(clippy::needless_pass_by_value)] // as `map_err` wants it
fn plain(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
