/* Capturing streams, and CUDA graphs, on the host. Invariant: while a thread captures, what a device would refuse then
 * spoils the capture: waiting, memory, other streams, copies of memory that is not pinned. */
#include <map>

#include "runtime.h"

struct CUgraph_st {
  EmulatedWork work;
  std::vector<std::function<void()>> launched;
  int device;
};

struct CUgraphExec_st : CUgraph_st {};

struct Capture {
  CUgraph_st graph;
  bool spoiled;
};

static std::map<cudaStream_t, Capture> captures;
static thread_local cudaStream_t capturing; /* by this thread */
static size_t graphs;

bool emulated_captures(cudaStream_t stream, const std::function<bool()> &work, const std::function<void()> &launched) {
  auto capture = captures.find(stream);
  if (capture == captures.end())
    return false;
  capture->second.graph.work.push_back(work);
  if (launched)
    capture->second.graph.launched.push_back(launched);
  capture->second.spoiled |= stream != capturing;
  return true;
}

bool emulated_spoils(cudaStream_t stream) {
  EmulatedLock held = emulated_lock();
  auto capture = captures.find(stream ? stream : capturing);
  if (capture == captures.end())
    return false;
  return capture->second.spoiled = true;
}

size_t emulated_graphs() {
  return graphs;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  MAY_FAIL;
  EmulatedLock held = emulated_lock();
  if (mode != cudaStreamCaptureModeThreadLocal || capturing || captures.count(stream))
    return emulated_result(cudaErrorInvalidValue);
  captures[stream] = Capture{{{}, {}, emulated_device_of(stream)}, false};
  capturing = stream;
  return emulated_result(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  EmulatedLock held = emulated_lock();
  *graph = NULL;
  if (!stream || capturing != stream)
    return emulated_result(cudaErrorInvalidValue);
  Capture capture = std::move(captures[stream]);
  captures.erase(stream);
  capturing = NULL;
  MAY_FAIL;
  if (capture.spoiled)
    return emulated_result(cudaErrorStreamCaptureInvalidated);
  *graph = new CUgraph_st(std::move(capture.graph));
  graphs++;
  return emulated_result(cudaSuccess);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
  MAY_FAIL;
  EmulatedLock held = emulated_lock();
  *executable = new CUgraphExec_st{*graph};
  graphs++;
  return emulated_result(cudaSuccess);
}

template <class G> static cudaError_t forget(G *graph) {
  EmulatedLock held = emulated_lock();
  delete graph;
  graphs--;
  return emulated_result(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  MAY_FAIL;
  return forget(graph);
}

/* What was launched goes on. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  MAY_FAIL;
  return forget(executable);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  MAY_FAIL;
  EmulatedLock held = emulated_lock();
  if (emulated_spoils(NULL))
    return emulated_result(cudaErrorStreamCaptureUnsupported);
  if (executable->device != emulated_device_of(stream))
    return emulated_result(cudaErrorInvalidValue);
  for (const auto &launched : executable->launched)
    launched();
  emulated_put_all(stream, executable->work);
  return emulated_result(cudaSuccess);
}
