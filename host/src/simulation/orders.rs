//! Orders of operators in a simulated life, and the answer to each.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::model::{Number, Order, Outcome};
use super::plugins::SimHost;
use super::world::World;
use crate::server::ServerHandle;
use crate::server::{CanaryOptions, SwapError, SwapPolicy, SwapReport};
use crate::work::WorkKind;

fn answer(of: Result<SwapReport, SwapError>) -> Outcome {
    match of {
        Ok(report) => Outcome::Did {
            revision: report.revision,
            rolled_back: report.rolled_back,
            recorded: report.recorded,
        },
        Err(error) => Outcome::Refused(match error {
            SwapError::Plugin(_) => "plugin",
            SwapError::Registry(_) => "registry",
            SwapError::NoRoom(_) => "no-room",
            SwapError::CanaryRuns(_) => "canary-runs",
            SwapError::NoCanary => "no-canary",
            SwapError::Canary(..) => "canary",
            SwapError::TooManyVersions(_) => "too-many",
            SwapError::NothingBefore => "nothing-before",
            SwapError::Gone { .. } => "gone",
            SwapError::Distrusted { .. } => "distrusted",
            SwapError::FileChanged(_) => "file-changed",
            SwapError::NotKept(_) | SwapError::NotRecorded(..) => "not-recorded",
            SwapError::Work(_) => "work",
            SwapError::TooManyWaiting(_) => "too-many-waiting",
            SwapError::Overtaken => "overtaken",
            SwapError::Stopping => "stopping",
        }),
    }
}

/// Gives one order and records the answer.
pub(super) async fn give(world: Rc<World>, handle: Arc<ServerHandle>, order: Order) {
    let policy = SwapPolicy::ALL[world.sim_env.throw(4) as usize];
    let live = world.sim_env.percent(50).then_some(true);
    let number = world.gives(order, policy);
    let file = |plugin: Number| SimHost::shared().file(plugin).clone();
    let answer = match order {
        Order::Swap(plugin) => answer(handle.swap_to(file(plugin), Some(policy)).await),
        Order::Canary(plugin) => answer(
            handle
                .canary_file(file(plugin), CanaryOptions { live, ..CanaryOptions::default() })
                .await,
        ),
        Order::Promote => answer(handle.promote().await),
        Order::RollBack => answer(handle.roll_back().await),
        Order::Reload(plugin) => reload(&world, &handle, plugin).await,
        Order::Stop => {
            let grace = Duration::from_millis(world.sim_env.throw(3_000));
            let (_, accepting) = watch::channel(0);
            handle.service.stop(grace, accepting).await;
            assert!(world.sessions.borrow().is_empty(), "sessions outlive the stop");
            Outcome::Did { revision: 0, rolled_back: false, recorded: false }
        }
    };
    world.answers(number, &handle.service, &answer);
}

/// Reloads one server, as a reload of all servers does.
async fn reload(world: &World, handle: &ServerHandle, plugin: Number) -> Outcome {
    let change = handle.versions_stay().await.expect("there are fewer orders than places");
    let before = world.configured.replace(plugin);
    let spec = world.spec(plugin);
    let service = Arc::clone(&handle.service);
    let checked = crate::rollout::env::run_blocking(service.work(WorkKind::Urgent), move || {
        let host = &SimHost::shared().host;
        let mut prepared = spec.prepare(host).map_err(|_| "plugin")?;
        prepared.keep_swapped(host, &service).map_err(|error| match error {
            SwapError::TooManyVersions(_) => "too-many",
            _ => "plugin",
        })?;
        Ok::<_, &str>(prepared)
    });
    match checked.await.expect("the runtime goes on") {
        Ok(prepared) => {
            let ended_canary = handle.put_in_force(prepared, &change);
            handle.after_reconfigure(&change, ended_canary).await;
            Outcome::Did { revision: 0, rolled_back: false, recorded: false }
        }
        Err(why) => {
            // The operator who wrote the file puts the old one back.
            world.configured.set(before);
            Outcome::Refused(why)
        }
    }
}
