#include "actors/supervisor.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <nlohmann/json.hpp>
#include <utility>

#include "actors/engine_setup.h"
#include "actors/network_interface.h"
#include "actors/supervisor_actor.h"
#include "checkpoint/holder.h"
#include "checkpoint/run_presence.h"
#include "data/batch_ramp.h"
#include "scheduler/run_decision_elastic.h"
#include "scheduler/run_json.h"

namespace tenax::actors {

namespace {

constexpr std::size_t kPreloadEntries =
    20000;  ///< journal entries of earlier sessions shown on the dashboard

/// The state saved with the last decision, brought up to date with the reports journalled since.
Result<InheritedState> inherit(const checkpoint::Store& store,
                               const scheduler::RunController& controller, RunView& view) {
  InheritedState inherited;
  TENAX_TRY(const auto saved, store.state());
  TENAX_TRY(const auto last, store.last_journal_seq());
  inherited.last_seq = last.value_or(0);
  if (saved) {
    TENAX_TRY(inherited.state, scheduler::run_state_from_json(*saved));
  }
  const std::uint64_t first =
      inherited.last_seq > kPreloadEntries ? inherited.last_seq - kPreloadEntries : 0;
  TENAX_TRY(const auto records, store.read_journal(first));
  std::vector<scheduler::JournalEntry> entries;
  for (const checkpoint::JournalRecord& r : records) {
    TENAX_TRY(entries.emplace_back(), scheduler::journal_entry_from_json(r.bytes));
    view.preload(entries.back());
  }
  controller.catch_up(inherited.state, entries);
  return inherited;
}

class LiveSupervisor final : public SupervisorHandle {
 public:
  LiveSupervisor(SupervisorOptions options, const Clock& clock)
      : options_(std::move(options)),
        clock_(clock),
        controller_(controller_options(options_.config)),
        view_(facts(options_), clock, registry_),
        actor_config_(2),
        system_(actor_config_),
        watcher_(std::make_unique<ProcessWatcher>(
            [this](std::uint64_t token, pid_t pid, std::string status) {
              caf::anon_send(actor_, ChildExited{token, pid, std::move(status)});
            })) {}

  ~LiveSupervisor() override {
    // The actors use everything below until they have ended, proxies and store actors (linked) with
    // the supervisor; then the threads that send to them end; then the handle may go.
    if (actor_) {
      caf::anon_send_exit(actor_, caf::exit_reason::user_shutdown);
      system_.await_all_actors_done();
    }
    sockets_.reset();
    watcher_.reset();
    http_.reset();
    actor_ = nullptr;
  }

  Status start() {
    const std::string path = options_.directory.path().string();
    checkpoint::StoreOptions store_options;
    store_options.holder.host = host_name();
    store_options.holder.pid = getpid();
    store_options.holder.started = clock_.now();
    store_options.holder.term = 1;
    if (const auto before = checkpoint::read_holder(path))
      store_options.holder.term = before->term + 1;
    const std::uint64_t term = store_options.holder.term;
    TENAX_TRY(auto store, checkpoint::Store::open(path, std::move(store_options)));
    store_ = std::move(store);
    TENAX_TRY(auto presence, checkpoint::RunPresence::announce(options_.identity.id));
    presence_.emplace(std::move(presence));
    // Only the holder of the lock may say what the run's configuration is.
    TENAX_RETURN_IF_ERROR(write_file(options_.directory.config(), options_.config_text, 0644));
    TENAX_TRY(InheritedState inherited, inherit(*store_, controller_, view_));
    inherited.term = term;
    degrees_ = controller_options(options_.config).degrees;
    // Journalled before: it may have been scaled since it was configured.
    if (inherited.last_seq > 0 && inherited.state.total_steps > 0 && inherited.state.target.dp > 0)
      degrees_ = inherited.state.target;

    const std::string control_token = random_token();
    TENAX_RETURN_IF_ERROR(start_dashboard(control_token));
    sockets_ = std::make_unique<wire::PeerSockets>(
        options_.identity.keys,
        [this](int socket, const std::string& peer, std::span<const std::byte> frame) {
          auto message = wire::decode(frame);
          if (!message) return;  // not ours: changes nothing (W2)
          caf::anon_send(actor_, Frame{socket, peer,
                                       std::make_shared<const wire::Message>(*std::move(message))});
        });
    const configs::NetworkSection& network = options_.config.network;
    TENAX_TRY(const std::string address,
              resolve_address("network.control_interface", network.control_interface));
    TENAX_TRY(const auto bound,
              sockets_->bind_router(fmt::format(
                  "tcp://{}:{}", address,
                  network.control_port == 0 ? "*" : std::to_string(network.control_port))));
    SupervisorEnvironment environment{options_,
                                      controller_,
                                      clock_,
                                      store_,
                                      *sockets_,
                                      bound.socket,
                                      *watcher_,
                                      registry_,
                                      view_,
                                      http_.get(),
                                      [this](RunOutcome outcome) {
                                        {
                                          std::lock_guard lock(mutex_);
                                          outcome_ = std::move(outcome);
                                        }
                                        ended_.notify_all();
                                      }};
    actor_ = system_.spawn(supervisor_actor, environment, std::move(inherited));
    TENAX_RETURN_IF_ERROR(options_.directory.write_address(
        {bound.endpoint, dashboard_url(), control_token, getpid(), term, host_name()}));
    caf::anon_send(actor_, StartAtom::value);
    return {};
  }

  const RunView& view() const override { return view_; }
  RunView& view() override { return view_; }
  std::string dashboard_url() const override { return http_ ? http_->url() : std::string(); }
  Degrees degrees() const override { return degrees_; }
  void request_stop(scheduler::StopKind kind, const std::string& by) override {
    caf::anon_send(actor_, StopRun{kind, by});
  }
  void abandon() override { caf::anon_send(actor_, AbandonRun{}); }
  std::optional<RunOutcome> wait(Duration timeout) override {
    std::unique_lock lock(mutex_);
    ended_.wait_for(lock, timeout, [this] { return outcome_.has_value(); });
    return outcome_;
  }

 private:
  static RunFacts facts(const SupervisorOptions& o) {
    RunFacts f;
    f.id = o.identity.id;
    f.name = o.identity.name;
    f.config_path = o.config_path;
    f.run_dir = o.directory.path().string();
    f.unigram_loss = o.unigram_loss;
    f.uniform_loss = o.uniform_loss;
    f.flops_per_token = o.flops_per_token;
    f.peak = o.identity.peak;
    f.pid = getpid();
    return f;
  }

  Status start_dashboard(const std::string& control_token) {
    if (!options_.config.dashboard.enabled) return {};
    HttpServer::Options http;
    http.host = options_.config.dashboard.host;
    http.port = static_cast<int>(options_.config.dashboard.port);
    http.control_token = control_token;
    HttpServer::Sources sources;
    sources.state_json = [this] { return view_.state_json(); };
    sources.metrics_json = [this](std::int64_t since) { return view_.metrics_json(since); };
    sources.journal_json = [this](std::uint64_t since) { return view_.journal_json(since); };
    sources.prometheus = [this] { return view_.prometheus(); };
    sources.control = [this](const std::string& action, const nlohmann::json& body) {
      return change_workers(action, body);
    };
    sources.stop = [this](const std::string& kind) -> Status {
      if (kind == "now") {
        abandon();
      } else {
        request_stop(scheduler::StopKind::kGraceful, "tenax stop");
      }
      return {};
    };
    TENAX_TRY(http_, HttpServer::start(std::move(http), std::move(sources)));
    return {};
  }

  /// `tenax rollback`: what the controller would refuse now is refused at once.
  Status roll_back(scheduler::RunState state, const nlohmann::json& body) {
    TENAX_TRY(scheduler::RollbackRequested request, scheduler::rollback_from_json(body.dump()));
    request.by = "tenax rollback";
    scheduler::JournalEntry preview;
    preview.event = request;
    preview.commands = controller_.decide(state, preview.event, clock_.now());
    if (!scheduler::begins_a_generation(preview.commands))
      return make_error(ErrorCode::kInvalidArgument, scheduler::describe(preview));
    caf::anon_send(actor_, ChangeRun{std::move(request)});
    return {};
  }

  /// `tenax drain` and `tenax scale`. The controller decides again, in case the run has changed.
  Status change_workers(const std::string& action, const nlohmann::json& body) {
    const scheduler::RunState state = view_.state();
    const scheduler::ControllerOptions& o = controller_.options();
    const auto number = [&](const char* key) {
      return body.contains(key) && body[key].is_number_integer() ? body[key].get<int>() : 0;
    };
    if (action == "drain") {
      const bool named = body.contains("agent") && body["agent"].is_number_unsigned();
      const auto agent = named ? body["agent"].get<std::uint32_t>() : UINT32_MAX;
      if (const auto refusal = scheduler::refusal_of_drain(state, o, agent); !refusal.empty())
        return make_error(ErrorCode::kInvalidArgument, refusal);
      caf::anon_send(actor_, ChangeRun{scheduler::DrainRequested{agent, "tenax drain"}});
      return {};
    }
    if (action == "rollback") return roll_back(state, body);
    if (action != "scale")
      return make_error(ErrorCode::kNotFound, fmt::format("nobody can {} a run", action));
    Degrees target = state.target;
    if (const int workers = number("workers"); workers > 0) {
      const auto scaled = scheduler::scaled_target(state, o, workers);
      if (!scaled) {
        return make_error(ErrorCode::kInvalidArgument,
                          fmt::format("the run cannot go on with {} workers", workers));
      }
      target = *scaled;
    }
    if (number("dp") > 0) target.dp = number("dp");
    if (number("pp") > 0) target.pp = number("pp");
    if (const auto refusal = scheduler::refusal_of_scale(state, o, target); !refusal.empty())
      return make_error(ErrorCode::kInvalidArgument, refusal);
    caf::anon_send(actor_, ChangeRun{scheduler::ScaleRequested{target, "tenax scale"}});
    return {};
  }

  const SupervisorOptions options_;
  const Clock& clock_;
  const scheduler::RunController controller_;
  ActorRegistry registry_;
  RunView view_;
  std::shared_ptr<checkpoint::Store> store_;
  std::optional<checkpoint::RunPresence> presence_;
  std::mutex mutex_;
  std::condition_variable ended_;
  Degrees degrees_;
  std::optional<RunOutcome> outcome_;
  ActorConfig actor_config_;
  caf::actor_system system_;
  caf::actor actor_;
  std::unique_ptr<ProcessWatcher> watcher_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<wire::PeerSockets> sockets_;
};

}  // namespace

scheduler::ControllerOptions controller_options(const configs::RunConfig& c) {
  const auto scaled = [&](Duration d) { return from_seconds(to_seconds(d) * c.run.time_scale); };
  scheduler::ControllerOptions o;
  o.degrees = degrees_of(c);
  std::int64_t smallest_batch = c.train.global_batch_size;
  if (const auto ramp = data::batch_ramp(c.train.batch_ramp, c.train.global_batch_size)) {
    for (const data::BatchSizeChange& change : *ramp)
      smallest_batch = std::min(smallest_batch, change.size);
  }
  o.limits.max_data_parallel = static_cast<int>(smallest_batch / c.train.microbatch_size);
  o.limits.max_stages = static_cast<int>(c.model.num_layers / c.layout.virtual_stages);
  o.limits.min_stages = static_cast<int>(c.layout.min_pipeline_parallel);
  o.limits.min_workers = static_cast<int>(c.layout.min_workers);
  o.spares = static_cast<int>(c.layout.spares);
  o.exclusion_period = scaled(c.supervision.exclusion_period);
  o.zero = static_cast<int>(c.layout.zero);
  o.num_agents = static_cast<int>(c.layout.agents);
  o.global_batch_size = c.train.global_batch_size;
  o.keep_last = static_cast<int>(c.checkpoint.keep_last);
  o.keep_every = c.checkpoint.keep_every;
  o.checkpoint_interval = c.checkpoint.interval;
  o.verify_patience = c.spikes.patience;
  o.collect_window = scaled(c.supervision.collect_window);
  o.abort_timeout = scaled(c.supervision.abort_timeout);
  o.hang_grace = scaled(o.hang_grace);
  o.form_timeout = scaled(c.supervision.form_timeout);
  o.hang_timeout = scaled(c.supervision.hang_timeout);
  o.watch.factor = c.supervision.hang_factor;
  o.watch.slack = scaled(c.supervision.hang_slack);
  o.watch.eval_interval = c.train.eval_interval;
  o.watch.checkpoint_interval = c.checkpoint.interval;
  o.takeover_wait = scaled(c.supervision.heartbeat_timeout);
  o.worker_restarts.kind = scheduler::RestartKind::kOneForOne;
  o.worker_restarts.intensity = static_cast<int>(c.supervision.restart_intensity);
  o.worker_restarts.period = c.supervision.restart_period;
  o.agent_restarts = o.worker_restarts;
  o.agent_restarts.kind = scheduler::RestartKind::kRestForOne;
  o.max_generations_without_progress =
      static_cast<int>(c.supervision.max_generations_without_progress);
  o.spikes.spikes = c.spikes;
  o.spikes.guard = configs::guard_options(c);
  o.replay_limit = c.spikes.replay_steps;
  return o;
}

Result<std::unique_ptr<SupervisorHandle>> start_supervisor(SupervisorOptions options,
                                                           const Clock& clock) {
  auto supervisor = std::make_unique<LiveSupervisor>(std::move(options), clock);
  TENAX_RETURN_IF_ERROR(supervisor->start());
  return std::unique_ptr<SupervisorHandle>(std::move(supervisor));
}

}  // namespace tenax::actors
