# Sets FASTMLP_HAS_CUDA: whether the GPU engine is built, as FASTMLP_CUDA asks. nvcc comes from CUDACXX,
# CMAKE_CUDA_COMPILER or PATH, or from the package index: nvidia-cuda-nvcc beside the Python that builds.
set(FASTMLP_HAS_CUDA OFF)
if(FASTMLP_CUDA STREQUAL "OFF")
  return()
endif()
if(NOT FASTMLP_CUDA MATCHES "^(ON|AUTO)$")
  message(FATAL_ERROR "FASTMLP_CUDA must be OFF, ON (needs nvcc) or AUTO (if there is nvcc), got '${FASTMLP_CUDA}'")
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # Machine code for Ampere and Hopper, and code of the latter that drivers translate for what comes after
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90-real;90-virtual" CACHE STRING "Architectures of the GPU engine")
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(FASTMLP_NVCC nvcc NO_CACHE)
  if(FASTMLP_NVCC)
    set(ENV{CUDACXX} ${FASTMLP_NVCC})
  else()
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
        "import importlib.util, os
spec = importlib.util.find_spec('nvidia')
roots = [os.path.join(path, 'cu13') for path in (spec.submodule_search_locations if spec else [])]
print(next((root for root in roots if os.path.exists(os.path.join(root, 'bin', 'nvcc'))), ''))"
      OUTPUT_VARIABLE toolkit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(toolkit)
      set(ENV{CUDACXX} ${toolkit}/bin/nvcc)
      set(ENV{CUDAFLAGS} "-L${toolkit}/lib $ENV{CUDAFLAGS}") # its nvcc looks in lib64, which packages do not have
    endif()
  endif()
endif()
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  set(FASTMLP_HAS_CUDA ON)
elseif(FASTMLP_CUDA STREQUAL "ON")
  message(FATAL_ERROR "FASTMLP_CUDA=ON, but there is no nvcc that works. Set CUDACXX or CMAKE_CUDA_COMPILER to one of "
                      "CUDA 13, or have it installed for the build: FASTMLP_CUDA_WHEELS=1 pip install .")
else()
  message(STATUS "FASTMLP_CUDA=AUTO: there is no nvcc that works, building without the GPU engine")
endif()
