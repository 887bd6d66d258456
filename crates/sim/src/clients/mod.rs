//! Who uses the cluster: callers, watchers, keepers of leases.
//!
//! ```text
//!  act ─► (travels) ─► arrive ─► requests::check ─► node ─► told ─► (travels) ─► answer ─► act
//!                                     └────► view ────────────────────┘
//! ```
//!
//! *Invariants.* 1. What a request means is decided by `node::requests`, as in a server; here is
//! only what a server does around it. 2. A client has one call under way at a time. 3. A client
//! believes that a call had no effect only when it was told so.

mod calls;
mod keep;
pub(crate) mod story;
mod watch;
mod workload;

use std::collections::BTreeMap;
use std::time::Duration;

use base::{MemberId, RequestId, Rng};
use node::{Input, Ticket};
use prost::Message as _;
use proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpointRequest, RequestHeader};
use proto::raftpb::ConfChange;

use crate::history::{ClientId, Outcome};
use crate::member::Member;
use crate::plan::Plan;
use keep::{Keeper, Renewal};
use watch::Watcher;
use workload::Workload;

/// The longest way between a client and a member.
const WAY_MAX: Duration = Duration::from_micros(800);

/// Names a call: its place in the history.
pub(crate) type OperationId = usize;

/// What happens to clients.
#[derive(Debug)]
pub(crate) enum Event {
    /// A caller or keeper does the next thing.
    Act(ClientId),
    /// A call reaches its member.
    Arrive(OperationId),
    /// Its answer reaches the client.
    Answer(OperationId, Box<Outcome>),
    /// The client waits no more.
    GiveUp(OperationId),
    /// A watcher looks what has come.
    Poll(usize),
    /// A renewal is at a member.
    Renew(Box<Renewal>),
    /// Its answer reaches the keeper.
    Renewed(Box<Renewal>, i64),
}

/// Who reads and writes.
#[derive(Debug)]
struct Caller {
    /// Where it is connected.
    member: Option<MemberId>,
    busy: Option<OperationId>,
    timeout: Duration,
}

/// What an answer of a member is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    Request(RequestId),
    Ticket(Ticket),
}

/// What waits for it.
#[derive(Debug)]
enum Waiter {
    Call(OperationId),
    Renewal(Box<Renewal>),
}

/// All clients.
pub(crate) struct Clients {
    callers: BTreeMap<ClientId, Caller>,
    watchers: Vec<Watcher>,
    keepers: BTreeMap<ClientId, Keeper>,
    workload: Workload,
    /// Calls that are still to be made.
    pub(crate) calls_left: u64,
    /// Keepers let their leases end.
    pub(crate) is_over: bool,
    /// The newest revision that a client was told.
    newest: i64,
    waiting: BTreeMap<(MemberId, Waits), Waiter>,
    think: Duration,
    /// Renewals of scenarios: each is a client.
    renewals: u32,
    is_fast: bool,
    /// Changes of the members that were proposed.
    pub(crate) changes: BTreeMap<(MemberId, RequestId), ConfChange>,
}

impl Clients {
    pub(crate) fn new(plan: &Plan, rng: &mut Rng) -> Self {
        let load = plan.load;
        let caller = |rng: &mut Rng| {
            let millis = *rng.pick(&[700, 3_000, 7_000]);
            Caller { member: None, busy: None, timeout: Duration::from_millis(millis) }
        };
        let callers = (0..load.clients).map(|at| (ClientId(at), caller(rng))).collect();
        let first = load.clients;
        let keepers =
            (0..load.keepers).map(|at| (ClientId(first + at), Keeper::default())).collect();
        let first = first + load.keepers;
        let watchers = (0..load.watchers).map(|at| Watcher::new(ClientId(first + at), rng));
        Self {
            callers,
            watchers: watchers.collect(),
            keepers,
            workload: Workload::new(load.keys),
            calls_left: load.calls,
            is_over: false,
            newest: 0,
            waiting: BTreeMap::new(),
            think: load.think,
            renewals: 0,
            is_fast: rng.one_in(2),
            changes: BTreeMap::new(),
        }
    }

    /// Whether nobody waits for the answer to a call, and none is to be made.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls_left == 0 && self.callers.values().all(|caller| caller.busy.is_none())
    }
}

/// Puts the rest of leases into the log; nobody waits for it.
pub(crate) fn propose_checkpoint(member: &mut Member, request: LeaseCheckpointRequest) {
    let request = InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() };
    propose(member, request);
}

/// Hands a request to the node. Its id.
fn propose(member: &mut Member, mut request: InternalRaftRequest) -> RequestId {
    let id = member.ids.next();
    request.header = Some(RequestHeader { id: id.get(), ..RequestHeader::default() });
    let data = request.encode_to_vec().into();
    member.inbox.push_back(Input::Propose { id, data });
    id
}
