//! `defrag`: gives the space back that a member's database does not use.

use std::io::Write as _;

use proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::command::{Call, Command, Flag, Group};
use super::endpoint::{connect, endpoints};
use super::failure::{self, Failure, Outcome};
use super::print::print;
use crate::go;

pub(crate) static DEFRAG: Command = Command {
    name: "defrag",
    short: "Defragments the storage of the etcd members with given endpoints",
    group: Group::Maintenance,
    inherited: &[Flag::bool("cluster", "use all endpoints from the cluster member list")],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

/// One member after the other; one that fails does not keep the others from it.
async fn run(call: &mut Call) -> Outcome {
    let settings = call.settings()?;
    let mut failed = false;
    for endpoint in endpoints(call, &settings).await? {
        let start = Instant::now();
        let answer = match connect(&settings, &endpoint).await? {
            Ok(client) => {
                let request = pb::DefragmentRequest {};
                client.ask(&request, async |r| client.maintenance().defragment(r).await).await
            }
            Err(error) => Err(error),
        };
        let took = go::duration(start.elapsed());
        match answer {
            Ok(_) => {
                let line = format!("Finished defragmenting etcd member[{endpoint}]. took {took}\n");
                print(line.as_bytes())?;
            }
            Err(error) => {
                failed = true;
                let line = format!(
                    "Failed to defragment etcd member[{endpoint}]. took {took}. ({error})\n"
                );
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    }
    if failed { Err(Failure::silent(failure::ERROR)) } else { Ok(()) }
}
