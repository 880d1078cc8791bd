//! A policy in the engine of a policy server: compiled once, with deadlines, a fresh instance for each evaluation.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use e2e_tests::fuel::Case;
use wapc::WapcHost;
use wasmtime_provider::wasmtime::{Config, Engine};
use wasmtime_provider::{EpochDeadlines, WasmtimeEngineProviderBuilder, WasmtimeEngineProviderPre};

/// Nobody advances the epoch here: the code checks for the deadline and never meets it.
const DEADLINES: EpochDeadlines = EpochDeadlines {
    wapc_init: 2,
    wapc_func: 2,
};

/// A compiled policy.
pub struct Server(WasmtimeEngineProviderPre);

impl Server {
    /// Compiles a module.
    pub fn new(wasm: &[u8]) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).map_err(|error| anyhow!("{error:#}"))?;
        let module = WasmtimeEngineProviderBuilder::new()
            .engine(engine)
            .module_bytes(wasm)
            .build_pre()
            .context("the module cannot be used")?;
        Ok(Self(module))
    }

    /// Runs a case from the start of an instance to its end, and gives the policy's answer.
    pub fn run(&self, case: &Arc<Case>) -> anyhow::Result<Vec<u8>> {
        let instance = self.0.rehydrate(Some(DEADLINES))?;
        let answers = Arc::clone(case);
        let callback = move |_, _: &str, namespace: &str, operation: &str, payload: &[u8]| {
            let answer = answers.answer(namespace, operation, payload);
            answer
                .map(<[u8]>::to_vec)
                .ok_or_else(|| format!("there is no answer to {namespace}/{operation}").into())
        };
        let host = WapcHost::new(Box::new(instance), Some(Box::new(callback)))?;
        Ok(host.call(case.operation, &case.payload)?)
    }
}
