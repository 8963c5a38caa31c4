#include "wire/value_codec.h"

namespace tenax::wire {

std::string text(capnp::Text::Reader t) { return {t.begin(), t.size()}; }
std::string bytes(capnp::Data::Reader d) {
  return {reinterpret_cast<const char*>(d.begin()), d.size()};
}
capnp::Data::Reader as_data(const std::string& s) {
  return {reinterpret_cast<const capnp::byte*>(s.data()), s.size()};
}

void write(schema::StepReport::Builder b, const StepReport& r) {
  b.setBranch(r.branch);
  b.setStep(r.step);
  b.setLoss(r.loss);
  b.setGradNorm(r.grad_norm);
  b.setLearningRate(r.learning_rate);
  b.setTokens(r.tokens);
  b.setPositionBegin(r.position_begin);
  b.setPositionEnd(r.position_end);
  b.setUpdate(static_cast<std::uint8_t>(r.update));
  b.setHasEval(r.has_eval);
  b.setEvalLoss(r.eval_loss);
  b.setSeconds(r.seconds);
  b.setClipNorm(r.clip_norm);
  b.setHeld(static_cast<std::uint8_t>(r.held));
  b.setSuspectRank(r.suspect_rank);
  b.setSnapshotSeconds(r.snapshot_seconds);
  auto losses = b.initReplicaLosses(r.replica_losses.size());
  for (std::size_t i = 0; i < r.replica_losses.size(); ++i) losses.set(i, r.replica_losses[i]);
}

StepReport read(schema::StepReport::Reader b) {
  StepReport r;
  r.branch = b.getBranch();
  r.step = b.getStep();
  r.loss = b.getLoss();
  r.grad_norm = b.getGradNorm();
  r.learning_rate = b.getLearningRate();
  r.tokens = b.getTokens();
  r.position_begin = b.getPositionBegin();
  r.position_end = b.getPositionEnd();
  r.update = static_cast<UpdateKind>(b.getUpdate());
  r.has_eval = b.getHasEval();
  r.eval_loss = b.getEvalLoss();
  r.seconds = b.getSeconds();
  r.clip_norm = b.getClipNorm();
  r.held = static_cast<HoldOutcome>(b.getHeld());
  r.suspect_rank = b.getSuspectRank();
  r.snapshot_seconds = b.getSnapshotSeconds();
  for (const double loss : b.getReplicaLosses()) r.replica_losses.push_back(loss);
  return r;
}

void write(schema::GuardState::Builder b, const GuardState& s) {
  b.setSamples(s.samples);
  b.setNormLevel(s.norm_level);
  b.setNormMean(s.norm_mean);
  b.setNormVariance(s.norm_variance);
  b.setQuietUntil(s.quiet_until);
}

GuardState read(schema::GuardState::Reader b) {
  return {b.getSamples(), b.getNormLevel(), b.getNormMean(), b.getNormVariance(),
          b.getQuietUntil()};
}

void write(schema::RankState::Builder b, const RankState& s) {
  b.setHasWeights(s.has_weights);
  b.setBranch(s.branch);
  b.setLastApplied(s.last_applied);
  b.setGradientsReady(s.gradients_ready);
  b.setVerdictKnown(s.verdict_known);
  write(b.initVerdict(), s.verdict);
  auto list = b.initReports(s.reports.size());
  for (std::size_t i = 0; i < s.reports.size(); ++i) write(list[i], s.reports[i]);
  b.setRank(s.rank);
  b.setDp(s.degrees.dp);
  b.setTp(s.degrees.tp);
  b.setPp(s.degrees.pp);
}

RankState read(schema::RankState::Reader b) {
  RankState s;
  s.has_weights = b.getHasWeights();
  s.branch = b.getBranch();
  s.last_applied = b.getLastApplied();
  s.gradients_ready = b.getGradientsReady();
  s.verdict_known = b.getVerdictKnown();
  s.verdict = read(b.getVerdict());
  for (auto r : b.getReports()) s.reports.push_back(read(r));
  s.rank = b.getRank();
  s.degrees = {static_cast<int>(b.getDp()), static_cast<int>(b.getTp()),
               static_cast<int>(b.getPp())};
  return s;
}

void write(schema::Plan::Builder b, const Plan& p) {
  b.setGeneration(p.generation);
  b.setBranch(p.branch);
  b.setStep(p.step);
  b.setTotalSteps(p.total_steps);
  b.setDp(p.degrees.dp);
  b.setTp(p.degrees.tp);
  b.setPp(p.degrees.pp);
  auto sources = b.initSources(p.sources.size());
  for (std::size_t i = 0; i < p.sources.size(); ++i) {
    sources[i].setKind(static_cast<std::uint8_t>(p.sources[i].kind));
    sources[i].setPeer(p.sources[i].peer);
  }
  b.setCheckpointId(p.checkpoint_id);
  b.setCheckpointBranch(p.checkpoint_branch);
  b.setHasHalfStep(p.has_half_step);
  write(b.initHalfStep(), p.half_step);
  auto windows = b.initSkipWindows(p.skip_windows.size());
  for (std::size_t i = 0; i < p.skip_windows.size(); ++i) {
    windows[i].setBegin(p.skip_windows[i].begin);
    windows[i].setEnd(p.skip_windows[i].end);
  }
  auto softenings = b.initSoftenings(p.softenings.size());
  for (std::size_t i = 0; i < p.softenings.size(); ++i) {
    softenings[i].setFirst(p.softenings[i].first);
    softenings[i].setLast(p.softenings[i].last);
    softenings[i].setFactor(p.softenings[i].factor);
  }
  write(b.initGuard(), p.guard);
}

Plan read(schema::Plan::Reader b) {
  Plan p;
  p.generation = b.getGeneration();
  p.branch = b.getBranch();
  p.step = b.getStep();
  p.total_steps = b.getTotalSteps();
  p.degrees = {static_cast<int>(b.getDp()), static_cast<int>(b.getTp()),
               static_cast<int>(b.getPp())};
  for (auto s : b.getSources()) {
    p.sources.push_back({static_cast<SourceKind>(s.getKind()), s.getPeer()});
  }
  p.checkpoint_id = b.getCheckpointId();
  p.checkpoint_branch = b.getCheckpointBranch();
  p.has_half_step = b.getHasHalfStep();
  p.half_step = read(b.getHalfStep());
  for (auto w : b.getSkipWindows()) p.skip_windows.push_back({w.getBegin(), w.getEnd()});
  for (auto s : b.getSoftenings()) {
    p.softenings.push_back({s.getFirst(), s.getLast(), s.getFactor()});
  }
  p.guard = read(b.getGuard());
  return p;
}

}  // namespace tenax::wire
