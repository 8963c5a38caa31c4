// The decoder once more, as plainly as it can be written: one token at a time, in any scalar type,
// from the formulas of the papers and not from the engine's code. Central differences of its loss
// are what the engine's gradients are compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compute/model_options.h"

namespace tenax::compute {

template <class Scalar>
class ReferenceDecoder {
 public:
  using Vector = std::vector<Scalar>;
  using Tensors = std::map<std::string, Vector>;

  explicit ReferenceDecoder(const ModelOptions& options) : o_(resolved(options)) {}

  /// Logits (V) after each of `tokens`, one sequence.
  std::vector<Vector> logits(const Tensors& p, const std::vector<std::int32_t>& tokens) const {
    std::vector<Vector> x;
    for (std::size_t t = 0; t < tokens.size(); ++t) x.push_back(embed(p, tokens[t], t));
    for (std::int64_t l = 0; l < o_.num_layers; ++l)
      layer(p, "layers." + std::to_string(l) + ".", x);
    std::vector<Vector> result;
    for (const Vector& row : x) {
      const Vector y = o_.norm_placement == NormPlacement::kPre ? norm(p, "final_norm", row) : row;
      const Vector& weight = p.at(o_.tied_output ? "embedding.token.weight" : "output.weight");
      Vector out(static_cast<std::size_t>(o_.vocabulary_size));
      for (std::size_t v = 0; v < out.size(); ++v) {
        for (std::size_t c = 0; c < y.size(); ++c) out[v] += weight[v * y.size() + c] * y[c];
        out[v] *= Scalar(o_.logit_scale);
      }
      result.push_back(out);
    }
    return result;
  }

  struct Loss {
    Scalar cross_entropy = 0;
    Scalar z_term = 0;
  };

  /// Sums over the targets that are not -1, one sequence.
  Loss loss(const Tensors& p, const std::vector<std::int32_t>& tokens,
            const std::vector<std::int32_t>& targets) const {
    Loss sum;
    const std::vector<Vector> rows = logits(p, tokens);
    for (std::size_t t = 0; t < rows.size(); ++t) {
      if (targets[t] < 0) continue;
      Scalar total = 0;
      for (const Scalar z : rows[t]) total += std::exp(z);
      const Scalar log_total = std::log(total);
      sum.cross_entropy += log_total - rows[t][static_cast<std::size_t>(targets[t])];
      sum.z_term += Scalar(o_.z_loss) * log_total * log_total;
    }
    return sum;
  }

 private:
  Vector embed(const Tensors& p, std::int32_t token, std::size_t position) const {
    const auto width = static_cast<std::size_t>(o_.width);
    Vector x(width);
    for (std::size_t c = 0; c < width; ++c) {
      x[c] = Scalar(o_.embedding_scale) *
             p.at("embedding.token.weight")[static_cast<std::size_t>(token) * width + c];
      if (o_.positions == PositionKind::kLearned)
        x[c] += p.at("embedding.position.weight")[position * width + c];
    }
    return o_.embedding_norm ? norm(p, "embedding.norm", x) : x;
  }

  Vector norm(const Tensors& p, const std::string& name, const Vector& x) const {
    Scalar mean = 0;
    if (o_.norm == NormKind::kLayerNorm) {
      for (const Scalar v : x) mean += v;
      mean /= Scalar(x.size());
    }
    Scalar variance = 0;
    for (const Scalar v : x) variance += (v - mean) * (v - mean);
    variance /= Scalar(x.size());
    Vector y(x.size());
    const auto bias = p.find(name + ".bias");
    for (std::size_t i = 0; i < x.size(); ++i) {
      y[i] =
          (x[i] - mean) / std::sqrt(variance + Scalar(o_.norm_epsilon)) * p.at(name + ".weight")[i];
      if (bias != p.end()) y[i] += bias->second[i];
    }
    return y;
  }

  Vector linear(const Tensors& p, const std::string& name, const Vector& x) const {
    const Vector& weight = p.at(name + ".weight");
    Vector y(weight.size() / x.size());
    const auto bias = p.find(name + ".bias");
    for (std::size_t i = 0; i < y.size(); ++i) {
      for (std::size_t j = 0; j < x.size(); ++j) y[i] += weight[i * x.size() + j] * x[j];
      if (bias != p.end()) y[i] += bias->second[i];
    }
    return y;
  }

  static void add(Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  void layer(const Tensors& p, const std::string& prefix, std::vector<Vector>& x) const {
    const bool pre = o_.norm_placement == NormPlacement::kPre;
    std::vector<Vector> input = x;
    if (pre)
      for (Vector& row : input) row = norm(p, prefix + "attention_norm", row);
    const std::vector<Vector> attended = attention(p, prefix + "attention.", input);
    for (std::size_t t = 0; t < x.size(); ++t) {
      add(x[t], attended[t]);
      if (!pre) x[t] = norm(p, prefix + "attention_norm", x[t]);
      Vector ffn_input = x[t];
      if (o_.parallel_block)
        ffn_input = input[t];
      else if (pre)
        ffn_input = norm(p, prefix + "ffn_norm", x[t]);
      add(x[t], feed_forward(p, prefix + "ffn.", ffn_input));
      if (!pre) x[t] = norm(p, prefix + "ffn_norm", x[t]);
    }
  }

  /// One head's part of a (heads * head_dim) vector, normed and rotated as the options say.
  Vector head(const Tensors& p, const std::string& norm_name, const Vector& all, std::int64_t h,
              std::size_t position) const {
    const auto dim = static_cast<std::size_t>(o_.head_dim);
    const auto begin = static_cast<std::size_t>(h) * dim;
    Vector x(dim);
    for (std::size_t i = 0; i < dim; ++i) x[i] = all[begin + i];
    if (o_.qk_norm) x = norm(p, norm_name, x);
    if (o_.positions != PositionKind::kRope) return x;
    for (std::size_t i = 0; i < dim; i += 2) {
      const Scalar angle = Scalar(position) / std::pow(Scalar(o_.rope_theta), Scalar(i) / dim);
      const Scalar first = x[i];
      x[i] = first * std::cos(angle) - x[i + 1] * std::sin(angle);
      x[i + 1] = x[i + 1] * std::cos(angle) + first * std::sin(angle);
    }
    return x;
  }

  /// The ALiBi paper's rule by recursion.
  static std::vector<double> slopes(std::int64_t n) {
    std::int64_t power = 1;
    while (2 * power <= n) power *= 2;
    std::vector<double> result;
    for (std::int64_t i = 1; i <= power; ++i)
      result.push_back(std::pow(2.0, -8.0 * static_cast<double>(i) / static_cast<double>(power)));
    if (power == n) return result;
    const std::vector<double> finer = slopes(2 * power);
    for (std::size_t i = 0; static_cast<std::int64_t>(result.size()) < n; i += 2)
      result.push_back(finer[i]);
    return result;
  }

  std::vector<Vector> attention(const Tensors& p, const std::string& prefix,
                                const std::vector<Vector>& x) const {
    const auto dim = static_cast<std::size_t>(o_.head_dim);
    std::vector<Vector> all_q, all_k, all_v;
    for (const Vector& row : x) {
      all_q.push_back(linear(p, prefix + "query", row));
      all_k.push_back(linear(p, prefix + "key", row));
      all_v.push_back(linear(p, prefix + "value", row));
    }
    const std::vector<double> slope = slopes(o_.num_heads);
    std::vector<Vector> mixed(x.size(), Vector(static_cast<std::size_t>(o_.num_heads) * dim));
    for (std::int64_t h = 0; h < o_.num_heads; ++h) {
      const std::int64_t kv = h / (o_.num_heads / o_.num_kv_heads);
      std::vector<Vector> keys, values;
      for (std::size_t t = 0; t < x.size(); ++t) {
        keys.push_back(head(p, prefix + "key_norm", all_k[t], kv, t));
        const auto begin = all_v[t].begin() + kv * o_.head_dim;
        values.emplace_back(begin, begin + o_.head_dim);
      }
      for (std::size_t t = 0; t < x.size(); ++t) {
        const Vector q = head(p, prefix + "query_norm", all_q[t], h, t);
        Vector weights(t + 1);
        Scalar total = 0;
        for (std::size_t s = 0; s <= t; ++s) {
          Scalar score = 0;
          for (std::size_t i = 0; i < dim; ++i) score += q[i] * keys[s][i];
          score /= std::sqrt(Scalar(dim));
          if (o_.positions == PositionKind::kAlibi)
            score -= Scalar(slope[static_cast<std::size_t>(h)]) * Scalar(t - s);
          weights[s] = std::exp(score);
          total += weights[s];
        }
        for (std::size_t s = 0; s <= t; ++s)
          for (std::size_t i = 0; i < dim; ++i)
            mixed[t][static_cast<std::size_t>(h) * dim + i] += weights[s] / total * values[s][i];
      }
    }
    std::vector<Vector> out;
    for (const Vector& row : mixed) out.push_back(linear(p, prefix + "output", row));
    return out;
  }

  Scalar activate(Scalar x) const {
    switch (o_.activation) {
      case ActivationKind::kGeluErf:
      case ActivationKind::kGeglu:
        return x * Scalar(0.5) * (1 + std::erf(x / std::sqrt(Scalar(2))));
      case ActivationKind::kGeluTanh:
        return x * Scalar(0.5) *
               (1 + std::tanh(std::sqrt(Scalar(2) / Scalar(3.14159265358979323846)) *
                              (x + Scalar(0.044715) * x * x * x)));
      case ActivationKind::kRelu:
        return x > 0 ? x : Scalar(0);
      case ActivationKind::kSwiglu:
        return x / (1 + std::exp(-x));
    }
    return x;
  }

  Vector feed_forward(const Tensors& p, const std::string& prefix, const Vector& x) const {
    Vector hidden = linear(p, prefix + "up", x);
    if (is_gated(o_.activation)) {
      const Vector gate = linear(p, prefix + "gate", x);
      for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] *= activate(gate[i]);
    } else {
      for (Scalar& h : hidden) h = activate(h);
    }
    return linear(p, prefix + "down", hidden);
  }

  ModelOptions o_;
};

}  // namespace tenax::compute
