#include "kernels/cuda/linear.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/skinny_linear.h"
#include "kernels/host_floats.h"

namespace tauserve::cuda {

void UploadAsBFloat16(const HostTensor& tensor, void* to) {
  const int64_t n = tensor.size();
  if (tensor.type == DataType::kBFloat16) {
    Upload(to, tensor.data, n * 2);
    return;
  }
  constexpr int64_t kChunk = 16 << 20;
  std::vector<uint16_t> converted(std::min(n, kChunk));
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    for (int64_t i = 0; i < count; i++) {
      converted[i] = FloatToBFloat16(ElementAsFloat(tensor.data, tensor.type, begin + i));
    }
    Upload(static_cast<char*>(to) + begin * 2, converted.data(), count * 2);
  }
}

GpuLinear::GpuLinear(int64_t in, int64_t out, bool bias)
    : in_(in),
      out_(out),
      weight_(in * out * 2),
      bias_(bias ? out * 2 : 0),
      float_bias_(bias ? out * 4 : 0) {}

absl::Status LinearEngine::Open() {
  if (!cublaslt_.Open()) return KeptCudaStatus();
  cublaslt_workspace_ = GpuBuffer(kCublasLtWorkspaceBytes);
  skinny_workspace_ = GpuBuffer(SkinnyLinearWorkspaceBytes());
  for (const GpuBuffer* buffer : {&cublaslt_workspace_, &skinny_workspace_}) {
    const absl::Status status =
        NeedMemory(*buffer, "the workspace of matrix products", "end what else uses the GPU");
    if (!status.ok()) return status;
  }
  CUDA_CHECK(cudaMemset(skinny_workspace_.data(), 0, skinny_workspace_.size()));
  CUDA_CHECK(cudaStreamSynchronize(nullptr));
  return KeptCudaStatus();
}

std::unique_ptr<GpuLinear> LinearEngine::Load(absl::Span<const HostTensor> weights,
                                              absl::Span<const HostTensor> biases,
                                              absl::Status* status) {
  const int64_t in = weights[0].shape[1];
  int64_t out = 0;
  for (const HostTensor& w : weights) {
    TAUSERVE_CHECK(w.shape.size() == 2 && w.shape[1] == in, "stacked weights differ");
    out += w.shape[0];
  }
  TAUSERVE_CHECK(biases.empty() || biases.size() == weights.size(), "one bias for each weight");
  auto linear = std::make_unique<GpuLinear>(in, out, !biases.empty());
  for (const GpuBuffer* buffer : {&linear->weight_, &linear->bias_, &linear->float_bias_}) {
    *status = NeedMemory(*buffer, absl::StrCat("a weight of ", out, " x ", in),
                         "the model does not fit into what is left");
    if (!status->ok()) return linear;
  }
  int64_t row = 0;
  for (size_t i = 0; i < weights.size(); i++) {
    UploadAsBFloat16(weights[i], linear->weight_.as<uint16_t>() + row * in);
    if (!biases.empty()) {
      TAUSERVE_CHECK(biases[i].size() == weights[i].shape[0], "bias length");
      UploadAsBFloat16(biases[i], linear->bias_.as<uint16_t>() + row);
      const std::vector<float> floats = ToFloats(biases[i]);
      Upload(linear->float_bias_.as<float>() + row, floats.data(), floats.size() * sizeof(float));
    }
    row += weights[i].shape[0];
  }
  return linear;
}

LinearArgs LinearEngine::ArgsOf(const GpuLinear& weight, Matrix in, Matrix out, DataType out_type) {
  LinearArgs args;
  args.weight = weight.weight_.as<__nv_bfloat16>();
  args.out_features = weight.out_;
  if (weight.bias_.size() > 0) {
    args.bias = weight.bias_.as<__nv_bfloat16>();
    args.float_bias = weight.float_bias_.as<float>();
  }
  args.in = in;
  args.out = out;
  args.out_type = out_type;
  return args;
}

void LinearEngine::Run(const GpuLinear& weight, Matrix in, bool add, Matrix out, DataType out_type,
                       cudaStream_t stream) {
  TAUSERVE_CHECK(in.cols == weight.in_ && out.cols == weight.out_ && in.rows == out.rows,
                 "linear shapes");
  if (in.rows == 0) return;
  LinearArgs args = ArgsOf(weight, in, out, out_type);
  args.add = add;
  if (SkinnyLinearSupports(args)) {
    SkinnyLinear(args, skinny_workspace_.data(), stream);
  } else {
    cublaslt_.Run(args, cublaslt_workspace_.data(), stream);
  }
}

void LinearEngine::RunGated(const GpuLinear& weight, Activation activation, Matrix in,
                            Matrix gate_up, Matrix out, cudaStream_t stream) {
  TAUSERVE_CHECK(in.cols == weight.in_ && 2 * out.cols == weight.out_ && in.rows == out.rows,
                 "linear shapes");
  if (in.rows == 0) return;
  LinearArgs args = ArgsOf(weight, in, out, DataType::kBFloat16);
  args.gated = true;
  args.activation = activation;
  if (SkinnyLinearSupports(args)) {
    SkinnyLinear(args, skinny_workspace_.data(), stream);
  } else {
    Run(weight, in, /*add=*/false, gate_up, DataType::kBFloat16, stream);
    GatedActivationRows(activation, gate_up, out, stream);
  }
}

}  // namespace tauserve::cuda
