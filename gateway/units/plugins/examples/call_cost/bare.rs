//! The floor: what the engine alone takes for one call, without anything of this crate around it.
//!
//! A new store, an instance made from the same component, the call by a handle resolved beforehand, and the store's end. The
//! host functions do no more than the plugin needs, and the engine is set as `src/engine.rs` sets it: keep the two alike.

use http::{HeaderMap, HeaderName, HeaderValue};
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Store, StoreContextMut, Strategy,
    UpdateDeadline,
};

use crate::sample;

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A new instance, called on the caller's stack.
    Direct,
    /// A new instance, called on a stack of its own, which may give the thread back in the middle.
    OwnStack,
    /// The instance of the call before, on the caller's stack.
    Again,
}

/// One component in an engine of its own.
pub(crate) struct Bare {
    engine: Engine,
    instance_pre: InstancePre<State>,
    phases: [Option<ComponentExportIndex>; 2],
    /// Moved into each store and back, as a chain's heads are.
    headers: HeaderMap,
    kept: Option<Kept>,
}

struct Kept {
    store: Store<State>,
    functions: [Option<wasmtime::component::TypedFunc<(), (Action,)>>; 2],
}

/// What the host functions look at.
struct State {
    headers: HeaderMap,
    set: Vec<(HeaderName, HeaderValue)>,
}

/// What a phase returns; the tests' plugins only ever go on.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
#[expect(dead_code, reason = "the shape of the contract")]
pub(crate) enum Action {
    #[component(name = "continue")]
    Continue,
    #[component(name = "answer")]
    Answer(Answer),
    #[component(name = "refuse")]
    Refuse(Refusal),
}

#[derive(Debug, ComponentType, Lift)]
#[component(record)]
#[expect(dead_code, reason = "the shape of the contract")]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Debug, ComponentType, Lift)]
#[component(record)]
#[expect(dead_code, reason = "the shape of the contract")]
pub(crate) struct Refusal {
    detail: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "the shape of the contract")]
enum HeaderFault {
    #[component(name = "invalid-name")]
    InvalidName,
    #[component(name = "invalid-value")]
    InvalidValue,
    #[component(name = "forbidden")]
    Forbidden,
    #[component(name = "read-only")]
    ReadOnly,
}

impl Bare {
    pub(crate) fn new(bytes: &[u8], instances: u32) -> Self {
        let engine = Engine::new(&config(instances)).expect("an engine");
        let component = Component::from_binary(&engine, bytes).expect("a component");
        let mut linker = Linker::<State>::new(&engine);
        linker.define_unknown_imports_as_traps(&component).expect("imports");
        linker.allow_shadowing(true);
        link(&mut linker).expect("host functions");
        let phases = ["request-headers", "response-headers"].map(|phase| {
            let interface = component.get_export_index(None, format!("sluice:plugin/{phase}@1.0.0"))?;
            component.get_export_index(Some(&interface), format!("on-{phase}"))
        });
        let instance_pre = linker.instantiate_pre(&component).expect("imports");
        Self { engine, instance_pre, phases, headers: sample::headers(), kept: None }
    }

    pub(crate) fn has(&self, phase: usize) -> bool {
        self.phases[phase].is_some()
    }

    pub(crate) async fn call(&mut self, phase: usize, manner: Manner) {
        match manner {
            Manner::Direct => self.direct(phase),
            Manner::OwnStack => self.own_stack(phase).await,
            Manner::Again => self.again(phase),
        }
    }

    fn store(&mut self) -> Store<State> {
        let headers = std::mem::take(&mut self.headers);
        let mut store = Store::new(&self.engine, State { headers, set: Vec::new() });
        store.set_epoch_deadline(1);
        store
    }

    fn direct(&mut self, phase: usize) {
        let Some(index) = self.phases[phase] else { return };
        let mut store = self.store();
        let instance = self.instance_pre.instantiate(&mut store).expect("an instance");
        let function = instance.get_typed_func::<(), (Action,)>(&mut store, &index).expect("a phase");
        let (action,) = function.call(&mut store, ()).expect("a decision");
        self.finish(store, &action);
    }

    async fn own_stack(&mut self, phase: usize) {
        let Some(index) = self.phases[phase] else { return };
        let mut store = self.store();
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))));
        let instance = self.instance_pre.instantiate_async(&mut store).await.expect("an instance");
        let function = instance.get_typed_func::<(), (Action,)>(&mut store, &index).expect("a phase");
        let (action,) = function.call_async(&mut store, ()).await.expect("a decision");
        self.finish(store, &action);
    }

    fn again(&mut self, phase: usize) {
        if self.kept.is_none() {
            let mut store = self.store();
            let instance = self.instance_pre.instantiate(&mut store).expect("an instance");
            let functions = self.phases.map(|index| instance.get_typed_func(&mut store, index?).ok());
            self.kept = Some(Kept { store, functions });
        }
        let Some(Kept { store, functions }) = &mut self.kept else { return };
        let Some(function) = &functions[phase] else { return };
        store.set_epoch_deadline(1);
        let (action,) = function.call(&mut *store, ()).expect("a decision");
        assert!(matches!(action, Action::Continue), "{action:?}");
        assert_eq!(store.data().set.len(), 1);
        store.data_mut().set.clear();
    }

    fn finish(&mut self, store: Store<State>, action: &Action) {
        assert!(matches!(action, Action::Continue), "{action:?}");
        let state = store.into_data();
        assert_eq!(state.set.len(), 1);
        self.headers = state.headers;
    }
}

fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Set = Result<(), HeaderFault>;
    fn set(mut store: StoreContextMut<'_, State>, (name, value): (String, String)) -> wasmtime::Result<(Set,)> {
        let field = (HeaderName::from_bytes(name.as_bytes())?, HeaderValue::try_from(value)?);
        store.data_mut().set.push(field);
        Ok((Ok(()),))
    }
    let mut configuration = linker.instance("sluice:plugin/configuration@1.0.0")?;
    configuration.func_wrap("get", |_: StoreContextMut<'_, State>, (key,): (String,)| {
        Ok(((key == "region").then(|| "eu-1".to_owned()),))
    })?;
    let mut request = linker.instance("sluice:plugin/request@1.0.0")?;
    request.func_wrap("header-values", |store: StoreContextMut<'_, State>, (name,): (String,)| {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok((store.data().headers.get_all(&name).into_iter().map(text).collect::<Vec<_>>(),))
    })?;
    request.func_wrap("set-header", set)?;
    linker.instance("sluice:plugin/response@1.0.0")?.func_wrap("set-header", set)
}

fn config(instances: u32) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(false)
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(256 * 1024)
        .async_stack_size(512 * 1024);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * 8)
        .total_memories(instances * 2)
        .total_tables(instances * 8)
        .total_stacks(instances)
        .max_core_instances_per_component(32)
        .max_memories_per_component(8)
        .max_tables_per_component(32)
        .table_elements(20_000)
        .max_memory_size(256 << 20)
        .linear_memory_keep_resident(64 * 1024)
        .table_keep_resident(4 * 1024);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
