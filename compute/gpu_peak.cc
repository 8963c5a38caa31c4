#include "compute/gpu_peak.h"

#include <array>

namespace tenax::compute {
namespace {

struct Peak {
  std::string_view model;
  std::string_view form;  ///< that the name has too; empty: any other
  double bf16 = 0;
  double fp32 = 0;
};

// Dense: data sheets that give figures with sparsity are halved. The first that fits counts.
constexpr std::array<Peak, 8> kPeaks = {{
    // NVIDIA H100 Tensor Core GPU, data sheet (SXM, PCIe, NVL): nvidia.com/en-us/data-center/h100
    {"H100", "PCIe", 756e12, 51.2e12},
    {"H100", "NVL", 835e12, 60e12},
    {"H100", "", 989e12, 67e12},
    // NVIDIA H200 Tensor Core GPU, data sheet: nvidia.com/en-us/data-center/h200
    {"H200", "NVL", 835e12, 60e12},
    {"H200", "", 989e12, 67e12},
    // NVIDIA A100 Tensor Core GPU, data sheet (every form): nvidia.com/en-us/data-center/a100
    {"A100", "", 312e12, 19.5e12},
    // NVIDIA L40S, data sheet: nvidia.com/en-us/data-center/l40s
    {"L40S", "", 362e12, 91.6e12},
    // NVIDIA A40, data sheet: nvidia.com/en-us/data-center/a40
    {"A40", "", 149.7e12, 37.4e12},
}};

/// As a word: "GH200" is not an "H200", nor "A4000" an "A40".
bool has_word(std::string_view name, std::string_view word) {
  const auto is_part = [&](std::size_t at) {
    return at < name.size() && name[at] != ' ' && name[at] != '-';
  };
  for (std::size_t at = name.find(word); at != std::string_view::npos;
       at = name.find(word, at + 1)) {
    if ((at == 0 || !is_part(at - 1)) && !is_part(at + word.size())) return true;
  }
  return false;
}

}  // namespace

double gpu_peak_flops(std::string_view name, Precision precision) {
  if (has_word(name, "MIG")) return 0;
  for (const Peak& peak : kPeaks) {
    if (!has_word(name, peak.model)) continue;
    if (!peak.form.empty() && !has_word(name, peak.form)) continue;
    return precision == Precision::kBf16 ? peak.bf16 : peak.fp32;
  }
  return 0;
}

}  // namespace tenax::compute
