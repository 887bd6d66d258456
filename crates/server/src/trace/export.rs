//! Sends spans to a collector, in batches.
//!
//! ```text
//!  finished spans ─► queue of SPANS_MAX ─► task: a batch is full, or old ─► Export
//!                      full: dropped             refused, or late: dropped
//! ```
//!
//! *Invariants.* Nobody waits for the queue. A batch that the collector does not take is not sent
//! again: spans are worth less than the memory that they would fill.

use std::time::Duration;

use parking_lot::Mutex;
use proto::otlp::any_value::Value;
use proto::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans,
    ScopeSpans, Span,
};
use rpc::otlp::trace_service_client::TraceServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::config::Tracing;
use crate::log;

/// Spans that may wait, and those that are sent together.
const SPANS_MAX: usize = 2_048;
const BATCH_MAX: usize = 512;

/// How long a span waits for others, unless this variable says it in milliseconds.
const DELAY: Duration = Duration::from_secs(5);
const DELAY_VARIABLE: &str = "OTEL_BSP_SCHEDULE_DELAY";

/// How long the collector may take.
const EXPORT_MAX: Duration = Duration::from_secs(10);

/// How long the end of the process waits for the last batch.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// How often a log line may say that spans are lost.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Who made a span: one for every call, the other for what etcd does in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Call,
    Member,
}

const SCOPES: [(Scope, &str); 2] = [
    (Scope::Call, "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"),
    (Scope::Member, "go.etcd.io/etcd"),
];

enum Order {
    Span(Scope, Box<Span>),
    Flush(oneshot::Sender<()>),
}

/// Where finished spans go.
pub(super) struct Exporter {
    orders: mpsc::Sender<Order>,
    /// Spans that did not fit in, and are not told of.
    lost: std::sync::Arc<Mutex<u64>>,
}

pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

impl Exporter {
    /// Starts the task that sends.
    pub(super) fn start(tracing: &Tracing) -> Self {
        let (orders, waiting) = mpsc::channel(SPANS_MAX);
        let lost = std::sync::Arc::<Mutex<u64>>::default();
        let text = |text: &str| Value::StringValue(text.to_owned());
        let mut attributes = vec![attribute("service.name", text(&tracing.service_name))];
        if !tracing.instance_id.is_empty() {
            attributes.push(attribute("service.instance.id", text(&tracing.instance_id)));
        }
        let delay = std::env::var(DELAY_VARIABLE).ok().and_then(|delay| delay.parse().ok());
        let sender = Sender {
            client: client(&tracing.address),
            resource: Resource { attributes },
            batch: Vec::new(),
            lost: std::sync::Arc::clone(&lost),
            told: None,
            delay: delay.map_or(DELAY, Duration::from_millis),
        };
        tokio::spawn(sender.run(waiting));
        Self { orders, lost }
    }

    /// Hands a span over. Never waits.
    pub(super) fn send(&self, scope: Scope, span: Span) {
        if self.orders.try_send(Order::Span(scope, Box::new(span))).is_err() {
            *self.lost.lock() += 1;
        }
    }

    /// Waits until everything is sent, but not for long.
    pub(super) async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        let flushed = async {
            if self.orders.send(Order::Flush(done)).await.is_ok() {
                let _ended = sent.await;
            }
        };
        // What is not sent by then is lost.
        drop(tokio::time::timeout(FLUSH_MAX, flushed).await);
    }
}

/// Connects when something is to be sent.
fn client(address: &str) -> Result<TraceServiceClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    let endpoint = endpoint.connect_timeout(EXPORT_MAX).timeout(EXPORT_MAX);
    Ok(TraceServiceClient::new(endpoint.connect_lazy()))
}

struct Sender {
    client: Result<TraceServiceClient<Channel>, String>,
    resource: Resource,
    batch: Vec<(Scope, Span)>,
    lost: std::sync::Arc<Mutex<u64>>,
    told: Option<Instant>,
    delay: Duration,
}

impl Sender {
    async fn run(mut self, mut waiting: mpsc::Receiver<Order>) {
        let mut due: Option<Instant> = None;
        loop {
            let order = match due {
                None => waiting.recv().await,
                Some(due) => match tokio::time::timeout_at(due, waiting.recv()).await {
                    Ok(order) => order,
                    Err(_) => Some(Order::Flush(oneshot::channel().0)),
                },
            };
            match order {
                Some(Order::Span(scope, span)) => {
                    self.batch.push((scope, *span));
                    due.get_or_insert_with(|| Instant::now() + self.delay);
                    if self.batch.len() < BATCH_MAX {
                        continue;
                    }
                    self.export().await;
                }
                Some(Order::Flush(done)) => {
                    self.export().await;
                    let _gone = done.send(());
                }
                None => return,
            }
            due = None;
        }
    }

    async fn export(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut spans = std::mem::take(&mut self.batch);
        let count = spans.len() as u64;
        let scope_spans = SCOPES.map(|(scope, name)| {
            let own: Vec<Span> =
                spans.extract_if(.., |(of, _)| *of == scope).map(|(_, span)| span).collect();
            let scope = InstrumentationScope { name: name.to_owned(), version: String::new() };
            ScopeSpans { scope: Some(scope), spans: own }
        });
        let scope_spans = scope_spans.into_iter().filter(|of| !of.spans.is_empty()).collect();
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans }];
        let sent = match &mut self.client {
            Ok(client) => client
                .export(ExportTraceServiceRequest { resource_spans })
                .await
                .map_err(|status| format!("{}: {}", status.code(), status.message())),
            Err(reason) => Err(reason.clone()),
        };
        match sent {
            Ok(_) if *self.lost.lock() == 0 => {}
            Ok(_) => self.tell("the queue was full"),
            Err(reason) => {
                *self.lost.lock() += count;
                self.tell(&reason);
            }
        }
    }

    /// Says that spans are lost, now and then.
    fn tell(&mut self, reason: &str) {
        if self.told.is_some_and(|told| told.elapsed() < TELL_INTERVAL) {
            return;
        }
        self.told = Some(Instant::now());
        let count = std::mem::take(&mut *self.lost.lock());
        log::warn("spans were not sent to the collector of traces")
            .field("count", &count)
            .field("error", reason)
            .emit();
    }
}
